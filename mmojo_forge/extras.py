"""Extras: packages that only some commands need. Forge installs them on first use.

It does so only in an environment that `./forge` made. Any other environment is its owner's: there an error names the
pip command. `pyproject.toml` has the same extras for pip. `requirements/setup.sh` defines the layout of the
environment; it installs packages by hash, one process at a time.
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

# Extra → the module that commands import from it.
MODULES: Mapping[str, str] = MappingProxyType(
    {"inspect": "lief", "plot": "matplotlib", "s3": "obstore", "serve": "aiohttp"}
)


class ExtraError(ForgeError):
    """An extra is missing (`extra-missing`), or pip could not install it (`extra-not-installed`)."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment, and the checkout whose `requirements/` may have made it."""

    prefix: Path
    checkout: Path

    @property
    def is_ours(self) -> bool:
        """Whether `./forge` made it."""
        return self._copy("forge").is_file() and self._setup.is_file()

    def has(self, extra: str) -> bool:
        """Whether the extra is installed. In an environment that `./forge` made, it must have the pinned versions."""
        if not self.is_ours:
            return importlib.util.find_spec(MODULES[extra]) is not None
        copy = self._copy(extra)
        return copy.is_file() and copy.read_bytes() == (self._setup.parent / f"{extra}.txt").read_bytes()

    def require(self, extra: str) -> None:
        """Return when the extra can be imported, and install it first if necessary; raises ExtraError."""
        if self.has(extra):
            return
        if not self.is_ours:
            raise ExtraError(
                f"import {MODULES[extra]}: it is not installed",
                detail=f"Install it with `pip install 'mmojo-forge[{extra}]'`.",
                reason="extra-missing",
            )
        command = ["env", f"FORGE_VENV={self.prefix}", "sh", str(self._setup), extra]
        # The command inherits stderr, so the user sees pip's progress and errors.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise ExtraError(
                f"install the packages for {extra}: pip failed",
                detail=f"With a network connection, run: {shlex.join(command)}",
                reason="extra-not-installed",
            )
        importlib.invalidate_caches()

    @property
    def _setup(self) -> Path:
        return self.checkout / "requirements" / "setup.sh"

    def _copy(self, name: str) -> Path:
        """The copy of the requirements file that setup.sh keeps of what it installed."""
        return self.prefix / "requirements" / f"{sys.version_info[0]}.{sys.version_info[1]}" / f"{name}.txt"


def require_extra(extra: str) -> None:
    """Return when this Python can import the extra, and install it first if necessary; raises ExtraError."""
    Environment(Path(sys.prefix), Path(__file__).resolve().parents[1]).require(extra)


# Cached, so that a machine without network waits for pip only once.
@functools.cache
def has_extra(extra: str) -> bool:
    """Whether this Python can import the extra, after trying to install it. Tries only once in a process.

    For features that forge can do without; `require_extra` raises instead.
    """
    try:
        require_extra(extra)
    except ExtraError:
        return False
    return True
