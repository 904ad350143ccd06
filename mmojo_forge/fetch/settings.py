"""Settings of a fetcher: what it is told about this machine and how patient it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.net.settings import HttpSettings

# An index or a mirror has no substitute, so that it is given more time than a cache: 4 KiB a minute are enough.
_PATIENT = HttpSettings(
    connect_seconds=20.0, stall_seconds=60.0, grace_seconds=60.0, least_rate=4096 / 60, connections=16
)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Everything a fetcher goes by. `environment` is the user's, handed over by the CLI; `machine` the root that
    configuration files are looked for below; `state` a cache directory that may be deleted at any time.

    `plain_schemes` are allowed in `url:` and `git:` locators beside https: for tests.
    `trust_unsigned_debian` is for tests with a repository of their own.
    """

    environment: Mapping[str, str]
    state: Path
    machine: Path = Path("/")
    http: HttpSettings = _PATIENT
    parallel: int = 6
    plain_schemes: frozenset[str] = frozenset()
    debian_suites: tuple[str, ...] = ("bookworm",)
    trust_unsigned_debian: bool = False

    def state_folder(self, name: str) -> Path:
        """An existing folder of our own below `state`; raises FetchError (`state-unwritable`)."""
        folder = self.state / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FetchError(
                f"fetch: cannot make {folder}: {error.strerror}",
                detail="Downloads need a cache folder of your own: set XDG_CACHE_HOME to one you can write to.",
                reason="state-unwritable",
            ) from error
        return folder


def home_of(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    """An XDG base directory: the variable where it is absolute, else a folder below the home directory."""
    chosen = environment.get(variable, "")
    if chosen.startswith("/"):
        return Path(chosen)
    return Path(environment.get("HOME") or Path.home()) / below_home
