"""Adds a source from a local file that forge could not, or need not, download.

forge verifies the file against forge.lock like any download, so its origin does not matter. Only `pin` trusts the file.
A pin that has only a SHA-256 gets its BLAKE3 when the file is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.lock.lock import declared_by
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.fetch.download import Digests, Received
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.lockfile import Lock, LockError, Pin
from mmojo_forge.recipe.evaluate import Declared, source_of
from mmojo_forge.store.protocol import Store, StoreError

_CHUNK = 1 << 20
_SCHEME = "file:"
_URL = "url:"
_VERSION = re.compile(r"[-._ ]*[0-9].*(?=\.[A-Za-z])|\.[0-9]+$")
"""The version part of a file name, up to its suffix; and the number that download tools append to copies."""


@dataclass(frozen=True, slots=True)
class Added:
    """A source that is now in the store. `pinned` is true if forge.lock was changed for it.

    `unwritten` is the reason why forge.lock could not be changed; the store has the file nevertheless.
    """

    pin: Pin
    pinned: bool
    unwritten: str = ""


def add_source(workspace: Workspace, store: Store, path: Path, *, name: str = "", pin: bool = False) -> Added:
    """Add the file at `path` to the store, as the source that its content identifies.

    If forge.lock lacks the file's BLAKE3, it is added. With `pin`, forge.lock pins `name` (or the file's own name) to
    this content; a recipe must declare that name as a File.

    forge.lock is written last, so that the store has everything it pins. Raises EngineError (`source-unknown`,
    `source-mismatch`, `source-unreadable`, `source-changed`, `lock-changed`), and with `pin` LockError
    (`lock-unwritable`).
    """
    lock = workspace.read_lock()
    received = _measure(path)
    declared, _ = declared_by(workspace, lock)
    found = _new_pin(declared, name or path.name, received) if pin else _known(lock, declared, name, path, received)
    source = declared.sources.get(found.name)
    tree = _take(store, path, received, executable=bool(source and source.executable))
    if pin:
        _write(workspace, found)
        return Added(found, pinned=True)
    if found.measured:
        return Added(found, pinned=False)
    # Resolve the download without BLAKE3 as well: forge.lock may be reverted, or another workspace with this store may
    # have a forge.lock without it.
    download = source_of(found, executable=bool(source and source.executable))
    if isinstance(download, Derivation):
        store.record_resolved({download.id: {"out": tree}})
    measured = replace(found, blake3=received.blake3)
    try:
        _write(workspace, measured, before=found)
    except LockError as error:
        return Added(measured, pinned=False, unwritten=str(error))
    return Added(measured, pinned=True)


def _measure(path: Path) -> Received:
    digests = Digests()
    try:
        if path.exists() and not path.is_file():
            raise EngineError(f"add source {path}: it is not a regular file", reason="source-unreadable")
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digests.update(chunk)
    except OSError as error:
        raise EngineError(f"add source {path}: {error.strerror}", reason="source-unreadable") from error
    return digests.received(str(path))


def _take(store: Store, path: Path, received: Received, *, executable: bool) -> TreeId:
    try:
        # The store never follows links, because trees contain links. Here the user means the file behind the link.
        return store.add_file(path.resolve(), digest=received.blake3, size=received.size, executable=executable).id
    except StoreError as error:
        if error.reason != "blob-mismatch":
            raise
        raise EngineError(
            f"add source {path}: it changed while forge read it",
            detail="Is it still being written? Try again when it is complete.",
            reason="source-changed",
        ) from error


def _write(workspace: Workspace, pin: Pin, before: Pin | None = None) -> None:
    """Add the pin to the current forge.lock, read again: it may have changed while a large file was being read."""
    lock = workspace.read_lock()
    if before is not None and lock.sources.get(pin.name) != before:
        raise EngineError(
            f"add source {pin.name}: forge.lock changed in the meantime and pins something else under this name",
            detail="The file is in the store. Try again if forge.lock still needs it.",
            reason="lock-changed",
        )
    workspace.write_lock(replace(lock, sources={**lock.sources, pin.name: pin}))


def _known(lock: Lock, declared: Declared, name: str, path: Path, received: Received) -> Pin:
    """The pin with this content; raises EngineError (`source-unknown`, or `source-mismatch` if it is not `name`)."""
    found = _find(lock, received)
    if found is None:
        raise _unknown(lock, declared, name or path.name, path, received)
    if name and found.name != name:
        raise EngineError(
            f"add source {path}: it is {found.name}, not {name}",
            detail="Omit --name: forge identifies the file by its content.",
            reason="source-mismatch",
        )
    return found


def _find(lock: Lock, received: Received) -> Pin | None:
    # Prefer the BLAKE3. A pin without one is identified by its SHA-256 and size.
    known = (pin for pin in lock.pins() if pin.blake3 == received.blake3)
    unmeasured = (pin for pin in lock.sources.values() if not pin.measured)
    named = (pin for pin in unmeasured if (pin.sha256, pin.size) == (received.sha256, received.size))
    return next(known, None) or next(named, None)


def _new_pin(declared: Declared, name: str, received: Received) -> Pin:
    wanted = declared.sources.get(name)
    if wanted is None or not wanted.locator.startswith(_SCHEME):
        raise EngineError(
            f"pin {name}: no recipe declares it as a File",
            detail=f"Declared: {', '.join(_by_hand(declared)) or 'none'}. `forge lock` pins all other sources.",
            reason="source-unknown",
        )
    return Pin(name, wanted.locator, received.sha256, received.blake3, received.size)


def _by_hand(declared: Declared) -> list[str]:
    return sorted(name for name, source in declared.sources.items() if source.locator.startswith(_SCHEME))


def _unknown(lock: Lock, declared: Declared, name: str, path: Path, received: Received) -> EngineError:
    pin = lock.sources.get(name) or _other_version(lock, name)
    if pin is None:
        files = ", ".join(_by_hand(declared))
        hint = f"\nTo pin a source that a recipe declares as a File ({files}): --pin --name NAME." if files else ""
        return EngineError(
            f"add source {path}: forge.lock pins nothing with this content (SHA-256 {received.sha256})",
            detail=f"Is it another version, or incomplete? It has {received.size} bytes.{_awaited(lock)}{hint}",
            reason="source-unknown",
        )
    short = "It is too short. Is the download incomplete?\n" if received.size < pin.size else ""
    return EngineError(
        f"add source {path}: it is not what forge.lock pins as {pin.name}",
        detail=f"expected SHA-256 {pin.sha256}, {pin.size} bytes\ngot      SHA-256 {received.sha256}, "
        f"{received.size} bytes\n{short}{_places(pin)}",
        reason="source-mismatch",
    )


def _awaited(lock: Lock) -> str:
    """A line for each pin without a BLAKE3: nobody had its file yet, so it is the likeliest one to be added."""
    rows = (
        f"\n  {pin.name}: {pin.size} bytes, SHA-256 {pin.sha256}" for pin in lock.sources.values() if not pin.measured
    )
    awaited = "".join(sorted(rows))
    return f"\nforge.lock still needs:{awaited}" if awaited else ""


def _places(pin: Pin) -> str:
    urls = [locator.removeprefix(_URL) for locator in (pin.locator, *pin.mirrors) if "://" in locator]
    return f"Get it from {' or '.join(urls)}." if urls else ""


def _other_version(lock: Lock, name: str) -> Pin | None:
    """The pin whose name equals `name` apart from the version; None if there is none, or several."""
    alike = [pin for pin in lock.sources.values() if _VERSION.sub("", pin.name) == _VERSION.sub("", name)]
    return alike[0] if len(alike) == 1 else None
