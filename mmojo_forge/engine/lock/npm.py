"""Locks an npm closure: reads package-lock.json from the source that contains it, and pins each tarball.

A tarball that is already pinned with the same locator and integrity hash is not downloaded again. Each other tarball is
downloaded once, checked against the hash in package-lock.json, and kept in the store for the next build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from mmojo_forge.fetch.archive import ArchiveError, ArchiveLimits, ExtractOptions, Reason, extract
from mmojo_forge.fetch.npm_lock import MAX_BYTES, LockedPackage, read_package_lock
from mmojo_forge.model.derivation import Source
from mmojo_forge.model.lockfile import LockError, Pin
from mmojo_forge.model.node_modules import NodeModules, NodeModulesError, NpmPackage
from mmojo_forge.recipe.source_trees import Declaration
from mmojo_forge.store.protocol import Store

_SAY_EVERY = 100


class NpmResolver(Protocol):
    """Fetches sources and resolves npm tarballs to pins; raises FetchError."""

    def fetch(self, source: Source, destination: Path) -> None:
        """Leave the verified content at `destination`."""

    def resolve_npm(
        self, tarballs: Mapping[str, str], keep: Callable[[Pin, Path], None], on_pin: Callable[[Pin], None]
    ) -> dict[str, Pin]:
        """The pin of each tarball, by locator. `tarballs` maps locators to integrity hashes.

        For each tarball, `keep` receives its content, then `on_pin` is called.
        """


class NpmLocker:
    """Locks npm closures. `say` receives progress messages."""

    def __init__(self, store: Store, resolver: NpmResolver, say: Callable[[str], None]) -> None:
        self._store = store
        self._resolver = resolver
        self._say = say

    def lock(self, declaration: Declaration, known: NodeModules | None) -> NodeModules:
        """The newly locked closure. Reuses the pins of `known`. Raises LockError, FetchError."""
        wanted = declaration.wanted
        what = f"{wanted.path or 'package-lock.json'} of {declaration.origin.name}"
        packages = read_package_lock(self._read(declaration, what), what, wanted.exclude)
        old = {(package.locator, package.integrity): package for package in _packages(known)}
        missing = _tarballs(packages, old, what)
        self._say(f"resolving npm closure {wanted.name}: {len(packages)} packages, {len(missing)} of them to download")
        pins = self._resolver.resolve_npm(missing, self._keep, _Progress(wanted.name, len(missing), self._say))
        return declaration.locked(_pinned(package, old, pins) for package in packages)

    def _read(self, declaration: Declaration, what: str) -> str:
        origin, path = declaration.origin, declaration.wanted.path
        with self._store.scratch("lock") as scratch:
            file = Path(origin.path) if not isinstance(origin, Source) else self._fetched(origin, scratch)
            if path and file.is_dir():
                file /= path
            elif path:
                file = _unpacked(file, path, scratch / "unpacked", what)
            return _text(file, what)

    def _fetched(self, source: Source, scratch: Path) -> Path:
        if not self._store.valid_trees([source.tree]):
            destination = scratch / "download"
            self._resolver.fetch(source, destination)
            self._store.add_file(
                destination, digest=source.digest, size=source.size, executable=source.executable, move=True
            )
        return self._store.checkout(source.tree, source.name)

    def _keep(self, pin: Pin, content: Path) -> None:
        self._store.add_file(content, digest=pin.blake3, size=pin.size, move=True)


class _Progress:
    """Reports every _SAY_EVERY packages how many are pinned. Thread-safe."""

    def __init__(self, name: str, total: int, say: Callable[[str], None]) -> None:
        self._name = name
        self._total = total
        self._say = say
        self._guard = threading.Lock()
        self._count = self._bytes = 0

    def __call__(self, pin: Pin) -> None:
        with self._guard:
            self._count += 1
            self._bytes += pin.size
            if self._count % _SAY_EVERY == 0 or self._count == self._total:
                self._say(f"  {self._name}: {self._count} of {self._total}, {self._bytes / 1e6:.0f} MB")


def is_locked(declaration: Declaration, known: NodeModules | None) -> bool:
    """Whether the closure matches the declaration and is readable. A merge may break it; it is then locked again."""
    if known is None or not declaration.is_met_by(known):
        return False
    try:
        known.packages()
    except NodeModulesError:
        return False
    return True


def _packages(known: NodeModules | None) -> Iterable[NpmPackage]:
    try:
        return known.packages() if known else ()
    except NodeModulesError:
        return ()


def _tarballs(packages: Iterable[LockedPackage], old: Mapping[tuple[str, str], object], what: str) -> dict[str, str]:
    """The integrity hash of each tarball that is not pinned yet, by locator; raises LockError (`npm-lock-conflict`)."""
    integrities: dict[str, str] = {}
    for package in packages:
        locator = str(package.locator)
        if integrities.setdefault(locator, package.integrity) != package.integrity:
            raise LockError(f"read {what}: {locator} has two different hashes", reason="npm-lock-conflict")
    return {locator: integrity for locator, integrity in integrities.items() if (locator, integrity) not in old}


def _pinned(package: LockedPackage, old: Mapping[tuple[str, str], NpmPackage], pins: Mapping[str, Pin]) -> NpmPackage:
    locator = str(package.locator)
    found = old.get((locator, package.integrity)) or pins[locator]
    return NpmPackage(
        package.path,
        locator,
        found.size,
        found.sha256,
        found.blake3,
        package.integrity,
        package.licence,
        package.bins,
    )


def _unpacked(archive: Path, path: str, destination: Path, what: str) -> Path:
    options = ExtractOptions(include=(path,), limits=ArchiveLimits(file_bytes=MAX_BYTES))
    try:
        extract(archive, destination, options)
    except ArchiveError as error:
        if error.reason == Reason.NOTHING_SELECTED:
            raise _missing(what) from error
        raise
    return destination / path


def _text(file: Path, what: str) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise _missing(what) from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise LockError(f"read {what}: not UTF-8", reason="npm-lock-malformed") from error


def _missing(what: str) -> LockError:
    return LockError(
        f"read {what}: there is no such file",
        detail="Correct the path in the recipe's NpmClosure. The path includes the top folder of an archive.",
        reason="npm-lock-missing",
    )
