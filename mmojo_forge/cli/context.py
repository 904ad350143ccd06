"""What every command is given: the workspace, and the world to act through, made when first asked for."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmojo_forge.cli.locations import configuration_file, store_folder
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.settings import Places, Settings, World
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.errors import ForgeError
from mmojo_forge.store.local import LocalStore

if TYPE_CHECKING:
    from mmojo_forge.engine.keys import KeyRing
    from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
    from mmojo_forge.fetch.fetcher import Fetcher
    from mmojo_forge.model.signature import PrivateKey

_T = TypeVar("_T")


@dataclass(slots=True)
class Context:
    """One invocation: environment and current folder as they were when it started."""

    environment: Mapping[str, str]
    folder: Path
    _workspace: Workspace | None = field(default=None, init=False)
    _store: LocalStore | None = field(default=None, init=False)

    @property
    def workspace(self) -> Workspace:
        """The workspace the current folder lies in; raises WorkspaceError."""
        if self._workspace is None:
            found = Workspace.find(self.folder)
            store = Path(store_folder(str(found.root), dict(self.environment)))
            self._workspace = Workspace(found.root, store)
        return self._workspace

    @property
    def store(self) -> LocalStore:
        """The workspace's store, opened."""
        if self._store is None:
            self._store = LocalStore.open(self.workspace.store)
        return self._store

    @property
    def places(self) -> Places:
        """Where downloads and failed builds lie."""
        return Places(self.workspace.store / "downloads", self.workspace.store / "failed")

    def fetcher(self) -> Fetcher:
        """The fetcher, with this machine's package indexes and mirrors."""
        # requests and the index client are needed only when something is downloaded.
        from mmojo_forge.fetch.fetcher import Fetcher

        return Fetcher(environment=self.environment)

    def executor(self) -> BubblewrapExecutor:
        """The sandbox; raises ExecutorError where this machine has none."""
        from mmojo_forge.executor.bubblewrap import BubblewrapExecutor

        return BubblewrapExecutor()

    def world(self, reporter: Reporter) -> World:
        """All the engine acts through."""
        return World(
            self.store,
            _once(self.executor),
            _once(self.fetcher),
            reporter,
            time.time,
            self.places,
            _once(lambda: self._signer(reporter)),
        )

    def keys(self) -> KeyRing:
        """The user's key, and the keys that are trusted here."""
        # cryptography and pydantic are needed only where something is built or trusted.
        from mmojo_forge.engine.keys import KeyRing

        folder = Path(configuration_file(dict(self.environment))).parent
        return KeyRing(folder, self.workspace.root)

    def _signer(self, reporter: Reporter) -> PrivateKey | None:
        try:
            return self.keys().own()
        except ForgeError as error:
            reporter.warning(f"what is built is not signed: {error.message}")
            return None

    def settings(self, *, jobs: int | None = None, keep_going: bool = False) -> Settings:
        """How to run: all cores and nine tenths of the memory unless told otherwise."""
        cores = jobs or len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Settings(cores, memory * 9 // 10, keep_going)


def _once(make: Callable[[], _T]) -> Callable[[], _T]:
    return functools.cache(make)
