"""Sources that somebody brings: a file that forge could not, or need not, download.

It is verified against forge.lock like any download, so it does not matter who brings it. Only `pin` believes it. What
is pinned by its SHA-256 alone gets its BLAKE3 when the file is brought.
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
"""Of a file's name: from what leads to its first digit up to its ending; and what downloaders number copies with."""


@dataclass(frozen=True, slots=True)
class Added:
    """A source that is in the store now, and whether forge.lock was changed for it. `unwritten` says why it was not
    where it should have been: this store knows the file even so."""

    pin: Pin
    pinned: bool
    unwritten: str = ""


def add_source(workspace: Workspace, store: Store, path: Path, *, name: str = "", pin: bool = False) -> Added:
    """Takes the file at `path` into the store as the source that it is by its content, and adds to forge.lock its
    BLAKE3 if that was not known; with `pin` it becomes what forge.lock pins `name` (or the file's own name) to, which
    recipes must declare as a File.

    forge.lock changes last: what it says is in the store. Raises EngineError (`source-unknown`, `source-mismatch`,
    `source-unreadable`, `source-changed`, `lock-changed`), and with `pin` LockError (`lock-unwritable`).
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
    # By the download that it stands for as well: forge.lock may be put back, or be another one's of the same store.
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
            raise EngineError(f"add source {path}: not a file that can be read to its end", reason="source-unreadable")
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digests.update(chunk)
    except OSError as error:
        raise EngineError(f"add source {path}: {error.strerror}", reason="source-unreadable") from error
    return digests.received(str(path))


def _take(store: Store, path: Path, received: Received, *, executable: bool) -> TreeId:
    try:
        # The store never follows a link, for a tree has links of its own; here it is the file that is meant.
        return store.add_file(path.resolve(), digest=received.blake3, size=received.size, executable=executable).id
    except StoreError as error:
        if error.reason != "blob-mismatch":
            raise
        raise EngineError(
            f"add source {path}: it changed while it was read",
            detail="Is it still being written? Once it is complete, do this again.",
            reason="source-changed",
        ) from error


def _write(workspace: Workspace, pin: Pin, before: Pin | None = None) -> None:
    """Puts the pin into forge.lock as it is now: reading a large file takes minutes, and others change the lock."""
    lock = workspace.read_lock()
    if before is not None and lock.sources.get(pin.name) != before:
        raise EngineError(
            f"add source {pin.name}: forge.lock was changed meanwhile, and pins something else by this name",
            detail="The file is in the store. Do this again if forge.lock still wants it.",
            reason="lock-changed",
        )
    workspace.write_lock(replace(lock, sources={**lock.sources, pin.name: pin}))


def _known(lock: Lock, declared: Declared, name: str, path: Path, received: Received) -> Pin:
    """What forge.lock pins to this content; raises EngineError if it is nothing, or not what it is said to be."""
    found = _find(lock, received)
    if found is None:
        raise _unknown(lock, declared, name or path.name, path, received)
    if name and found.name != name:
        raise EngineError(
            f"add source {path}: it is {found.name}, not {name}",
            detail="Leave --name out; what it is follows from its content.",
            reason="source-mismatch",
        )
    return found


def _find(lock: Lock, received: Received) -> Pin | None:
    known = (pin for pin in lock.pins() if pin.blake3 == received.blake3)
    unmeasured = (pin for pin in lock.sources.values() if not pin.measured)
    named = (pin for pin in unmeasured if (pin.sha256, pin.size) == (received.sha256, received.size))
    return next(known, None) or next(named, None)


def _new_pin(declared: Declared, name: str, received: Received) -> Pin:
    wanted = declared.sources.get(name)
    if wanted is None or not wanted.locator.startswith(_SCHEME):
        raise EngineError(
            f"pin {name}: no recipe declares it as a File",
            detail=f"Declared: {', '.join(_by_hand(declared)) or 'none'}. Others are pinned by `forge lock`.",
            reason="source-unknown",
        )
    return Pin(name, wanted.locator, received.sha256, received.blake3, received.size)


def _by_hand(declared: Declared) -> list[str]:
    return sorted(name for name, source in declared.sources.items() if source.locator.startswith(_SCHEME))


def _unknown(lock: Lock, declared: Declared, name: str, path: Path, received: Received) -> EngineError:
    pin = lock.sources.get(name) or _other_version(lock, name)
    if pin is None:
        files = ", ".join(_by_hand(declared))
        hint = f"\nFor what a recipe declares as a File ({files}): --pin --name NAME." if files else ""
        return EngineError(
            f"add source {path}: forge.lock pins nothing that has this content (SHA-256 {received.sha256})",
            detail=f"Is it another version, or not the whole file? It has {received.size} bytes.{_awaited(lock)}{hint}",
            reason="source-unknown",
        )
    short = "It is too short: an incomplete download?\n" if received.size < pin.size else ""
    return EngineError(
        f"add source {path}: it is not what forge.lock pins as {pin.name}",
        detail=f"expected SHA-256 {pin.sha256}, {pin.size} bytes\ngot      SHA-256 {received.sha256}, "
        f"{received.size} bytes\n{short}{_places(pin)}",
        reason="source-mismatch",
    )


def _awaited(lock: Lock) -> str:
    """A line for each pin whose file nobody has had yet, which is what is brought most of all."""
    rows = (
        f"\n  {pin.name}: {pin.size} bytes, SHA-256 {pin.sha256}" for pin in lock.sources.values() if not pin.measured
    )
    awaited = "".join(sorted(rows))
    return f"\nWhat forge.lock waits for:{awaited}" if awaited else ""


def _places(pin: Pin) -> str:
    urls = [one.removeprefix(_URL) for one in (pin.locator, *pin.mirrors) if "://" in one]
    return f"It is to be had from {' or '.join(urls)}." if urls else ""


def _other_version(lock: Lock, name: str) -> Pin | None:
    """The only pin that is called like `name`, apart from versions."""
    alike = [pin for pin in lock.sources.values() if _VERSION.sub("", pin.name) == _VERSION.sub("", name)]
    return alike[0] if len(alike) == 1 else None
