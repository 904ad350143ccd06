"""What a run is asked to do, apart from its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.engine.protocols import Clock, Publisher, Signer, SourceFetcher, Substituter
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.executor.request import Executor
from mmojo_forge.store.protocol import Store


@dataclass(frozen=True, slots=True)
class Settings:
    """`jobs`: cores for all builds together; `keep_going`: build what does not need a failed node;
    `substitute_only`: build nothing and fetch no sources, take all from other stores."""

    jobs: int
    memory_bytes: int
    keep_going: bool = False
    substitute_only: bool = False


@dataclass(frozen=True, slots=True)
class Directories:
    """Where what is no store object lies: partial downloads, and failed builds as they were left. On the store's
    file system, so that both can be renamed from and into it."""

    downloads: Path
    failed: Path

    def download(self, digest: str) -> Path:
        """Where a source is downloaded to; partial content stays there for the next try."""
        return self.downloads / digest

    def failed_build(self, name: str) -> Path:
        """Where the latest failed build of a name is kept."""
        return self.failed / name


def _nobody() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Services:
    """All that the engine acts through. Two of them could be open in one process.

    The executor and the fetcher are made when first needed: a run that finds everything in the store needs neither.
    The signer vouches for what is built; without one, traces are not signed and say that they were built locally.
    The substituter is asked before anything is built; without one, everything that is not here is.
    The publisher is told of what was built and signed, and may be shared.
    """

    store: Store
    executor: Callable[[], Executor]
    fetcher: Callable[[], SourceFetcher]
    reporter: Reporter
    clock: Clock
    directories: Directories
    signer: Callable[[], Signer | None] = _nobody
    substituter: Callable[[], Substituter | None] = _nobody
    publisher: Callable[[], Publisher | None] = _nobody
