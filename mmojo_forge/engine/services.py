"""What every run of the engine acts through: settings, directories, and the services behind the protocols."""

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
    """The limits and mode of a run.

    `jobs` is the number of cores that all builds share. With `keep_going`, nodes that need no failed node are still
    built. With `substitute_only`, forge neither builds nor fetches sources: everything comes from other stores.
    """

    jobs: int
    memory_bytes: int
    keep_going: bool = False
    substitute_only: bool = False


@dataclass(frozen=True, slots=True)
class Directories:
    """The folders for partial downloads and failed builds, which are not store objects.

    They are on the store's file system, because forge renames files between them and the store.
    """

    downloads: Path
    failed: Path

    def download(self, digest: str) -> Path:
        """The download path of a source. Partial content stays there, so that the next attempt resumes it."""
        return self.downloads / digest

    def failed_build(self, name: str) -> Path:
        """The folder that keeps the latest failed build of a name."""
        return self.failed / name


def _nobody() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the engine acts through. A process may have several instances.

    Fields that are callables create their service on first use: a run that finds everything in the store needs no
    executor and no fetcher.

    - `signer` signs the traces of builds. Without one, traces are unsigned and name the builder `local`.
    - `substituter` is asked before forge builds. Without one, forge builds everything that the store lacks.
    - `publisher` receives every signed result. Several runs may share one.
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
