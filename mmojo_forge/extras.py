"""The packages that only some commands need: installed when first used, if the environment is one that `./forge` made.

`pyproject.toml` has the same extras for pip. In any other environment nothing is installed: whoever made it decides
what is in it, and an error says what to ask pip for. `requirements/setup.sh` has the layout of the environment; it
installs, by hash, and lets one process at a time do so.
"""

from __future__ import annotations

import functools
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.errors import ExitCode, ForgeError

# The module that is imported, by extra.
MODULES: Mapping[str, str] = MappingProxyType(
    {"inspect": "lief", "plot": "matplotlib", "s3": "obstore", "serve": "aiohttp"}
)


class ExtraError(ForgeError):
    """An extra that is missing (`extra-missing`), or could not be installed (`extra-not-installed`)."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment, and the checkout whose `requirements/` it may be made from."""

    prefix: Path
    checkout: Path

    @property
    def is_ours(self) -> bool:
        """Whether `./forge` made it."""
        return self._copy("forge").is_file() and self._setup.is_file()

    def has(self, extra: str) -> bool:
        """Whether just the pinned packages are installed; in an environment of others, whether there are any."""
        if not self.is_ours:
            return importlib.util.find_spec(MODULES[extra]) is not None
        copy = self._copy(extra)
        return copy.is_file() and copy.read_bytes() == (self._setup.parent / f"{extra}.txt").read_bytes()

    def require(self, extra: str) -> None:
        """Return when the extra can be imported, installed now if need be; raises ExtraError."""
        if self.has(extra):
            return
        if not self.is_ours:
            raise ExtraError(
                f"import {MODULES[extra]}: it is not installed",
                detail=f"pip install mmojo-forge[{extra}]",
                reason="extra-missing",
            )
        command = ["env", f"FORGE_VENV={self.prefix}", "sh", str(self._setup), extra]
        # Its standard error is ours, so the user sees the progress and what pip says.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise ExtraError(
                f"install the packages for {extra}: pip could not",
                detail=f"Where there is a network: {shlex.join(command)}",
                reason="extra-not-installed",
            )
        importlib.invalidate_caches()

    @property
    def _setup(self) -> Path:
        return self.checkout / "requirements" / "setup.sh"

    def _copy(self, name: str) -> Path:
        """The requirements file that was installed, as it was."""
        return self.prefix / "requirements" / f"{sys.version_info[0]}.{sys.version_info[1]}" / f"{name}.txt"


def require_extra(extra: str) -> None:
    """Return when the extra can be imported here, installed now if need be; raises ExtraError."""
    Environment(Path(sys.prefix), Path(__file__).resolve().parents[1]).require(extra)


@functools.cache
def has_extra(extra: str) -> bool:
    """As `require_extra`, but False where it raises: for what is only nice to have. Tried once in a process."""
    try:
        require_extra(extra)
    except ExtraError:
        return False
    return True
