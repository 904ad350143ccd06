"""One use of forge: the workspace, and the services to act through, each made when it is first asked for."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmojo_forge.engine.config import Config, read_config
from mmojo_forge.engine.locations import configuration_files, store_path
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.services import Directories, Services, Settings
from mmojo_forge.engine.workspace import Workspace, WorkspaceError
from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.store.local import LocalStore

if TYPE_CHECKING:
    from mmojo_forge.engine.cache.background_push import BackgroundPublisher
    from mmojo_forge.engine.cache.settings import CacheSettings
    from mmojo_forge.engine.cache.substituter import Caches
    from mmojo_forge.engine.config import CacheTable
    from mmojo_forge.engine.trust.keys import KeyRing
    from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
    from mmojo_forge.fetch.fetcher import Fetcher
    from mmojo_forge.model.signature import PrivateKey

_T = TypeVar("_T")


class NoHomeError(ForgeError):
    """A user without a home folder, and without variables that say where else things lie."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


@dataclass(frozen=True, slots=True)
class UserFolders:
    """Where this user's configuration lies, and what may be deleted at any time."""

    configuration: Path
    cache: Path


@dataclass(slots=True)
class Session:
    """One use: environment and current folder as they were when it started, and how to find the user's folders, which
    not every command needs. Close it to let go of the store."""

    environment: Mapping[str, str]
    folder: Path
    find_user_folders: Callable[[], UserFolders]
    _user: UserFolders | None = field(default=None, init=False)
    _config: Config | None = field(default=None, init=False)
    _workspace: Workspace | None = field(default=None, init=False)
    _store: LocalStore | None = field(default=None, init=False)
    _publisher: BackgroundPublisher | None = field(default=None, init=False)

    @property
    def workspace(self) -> Workspace:
        """The workspace the current folder lies in; raises WorkspaceError, and ConfigError as `config` does."""
        if self._workspace is None:
            root = Workspace.find(self.folder).root
            store = store_path(str(root), self.environment.get("FORGE_STORE") or self.config.store)
            files = configuration_files(str(root), str(self.user.configuration))
            self._workspace = Workspace(root, Path(store), tuple(map(Path, files)))
        return self._workspace

    @property
    def config(self) -> Config:
        """What the workspace and the user configured, read once; raises WorkspaceError, ConfigError."""
        if self._config is None:
            self._config = read_config(Workspace.find(self.folder).root, self.user.configuration)
        return self._config

    @property
    def user(self) -> UserFolders:
        """The user's folders; raises ForgeError where the user has no home."""
        if self._user is None:
            self._user = self.find_user_folders()
        return self._user

    @property
    def store(self) -> LocalStore:
        """The workspace's store, opened."""
        if self._store is None:
            self._store = LocalStore.open(self.workspace.store)
        return self._store

    @staticmethod
    def open_store(path: Path, shuffle: int | None) -> LocalStore:
        """A store elsewhere; with `shuffle` it makes files in another order."""
        return LocalStore.open(path, shuffle=shuffle)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            # A sync waits for all that anybody has written to the file system, often longer than a build takes; what
            # a power cut leaves half-written is found and dropped without it.
            self._store.close(durable=False)
            self._store = None

    @property
    def directories(self) -> Directories:
        """Where downloads and failed builds lie."""
        return Directories(self.workspace.store / "downloads", self.workspace.store / "failed")

    def fetcher(self) -> Fetcher:
        """The fetcher, with this machine's package indexes and mirrors."""
        # requests and the index client are needed only when something is downloaded.
        from mmojo_forge.fetch.fetcher import Fetcher
        from mmojo_forge.fetch.settings import FetchSettings

        return Fetcher(FetchSettings(self.environment, self.user.cache / "fetch"))

    def executor(self) -> BubblewrapExecutor:
        """The sandbox; raises ExecutorError where this machine has none."""
        from mmojo_forge.executor.bubblewrap import BubblewrapExecutor

        return BubblewrapExecutor()

    def services(self, reporter: Reporter, *, caches: tuple[str, ...] | None = ()) -> Services:
        """All the engine acts through; `caches` are names and URLs of those to ask, () for all, None for none."""
        self._forget_revoked()
        return Services(
            self.store,
            _once(self.executor),
            _once(self.fetcher),
            reporter,
            time.time,
            self.directories,
            _once(lambda: self._signer(reporter)),
            _once(lambda: self._substituter(reporter, caches)),
            _once(lambda: self.publisher(reporter)),
        )

    def publisher(self, reporter: Reporter) -> BackgroundPublisher | None:
        """What pushes to the caches that are set to be pushed to after each build; always the same one."""
        if self._publisher is None and self.config.caches:
            # As for caches.
            from mmojo_forge.engine.cache.background_push import BackgroundPublisher
            from mmojo_forge.engine.cache.open import open_place

            tables = self.cache_settings().chosen(())
            places = {
                name: functools.partial(open_place, table, self.environment)
                for name, table in tables.items()
                if table.push == "after-build"
            }
            if places:
                self._publisher = BackgroundPublisher(places, self.store, self.keys().own(), reporter)
        return self._publisher

    def cache_settings(self) -> CacheSettings:
        """The caches and the policy that the workspace and the user set; raises ConfigError."""
        # As for caches.
        from mmojo_forge.engine.cache.settings import CacheSettings

        return CacheSettings(self.config.caches, self.config.trust, self.folder)

    def cache_table(self, name: str) -> CacheTable:
        """The cache of that name, or at that URL or path, outside of any workspace too; raises CacheSettingsError."""
        from mmojo_forge.engine.cache.settings import is_place, table_of

        try:
            return self.cache_settings().one(name)
        except WorkspaceError:
            if not is_place(name):
                raise
            return table_of(name, self.folder)

    def caches(self, names: tuple[str, ...] = (), warn: Callable[[str], None] = lambda _: None) -> Caches:
        """The caches of these names or URLs, or all that are enabled; raises CacheSettingsError, CacheError."""
        # requests, for caches behind HTTP.
        from mmojo_forge.engine.cache.open import named_cache
        from mmojo_forge.engine.cache.substituter import Caches

        settings = self.cache_settings()
        ring = self.keys()
        trusted = [ring.own().public] if settings.trust.own_only else ring.trusted()
        tables = settings.chosen(names)
        members = [named_cache(name, table, trusted, self.environment) for name, table in tables.items()]
        return Caches(members, self.store, agree=settings.trust.agree, warn=warn, clock=time.monotonic)

    def _substituter(self, reporter: Reporter, names: tuple[str, ...] | None) -> Caches | None:
        if names is None or not (names or self.config.caches):
            return None
        return self.caches(names, reporter.warning)

    def _forget_revoked(self) -> None:
        """What only revoked keys vouch for is not known any more, also where it was taken in before they were."""
        if self.config.has_revoked_keys:
            self.store.forget_signed_only_by([key.text for key in self.keys().revoked()])

    def keys(self) -> KeyRing:
        """The user's key, and the keys that are trusted here."""
        return self._key_ring(self.workspace.root)

    def any_keys(self) -> KeyRing:
        """As `keys`, but outside of any workspace the user's alone: files are signed and verified anywhere."""
        try:
            return self.keys()
        except WorkspaceError:
            return self._key_ring(self.user.configuration)

    def _key_ring(self, workspace: Path) -> KeyRing:
        # cryptography is needed only where something is built or trusted.
        from mmojo_forge.engine.trust.keys import KeyRing

        return KeyRing(self.user.configuration, workspace)

    def _signer(self, reporter: Reporter) -> PrivateKey | None:
        try:
            return self.keys().own()
        except ForgeError as error:
            reporter.warning(f"what is built is not signed: {error.message}")
            return None

    def settings(self, *, jobs: int | None = None, keep_going: bool = False, substitute_only: bool = False) -> Settings:
        """How to run: all cores and nine tenths of the memory unless told otherwise."""
        cores = jobs or len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Settings(cores, memory * 9 // 10, keep_going, substitute_only)


def _once(make: Callable[[], _T]) -> Callable[[], _T]:
    """What `make` gives, made once, whichever of several threads asks first."""
    lock, cached = threading.Lock(), functools.cache(make)

    def get() -> _T:
        with lock:
            return cached()

    return get
