"""Sources that somebody brings: a file that forge could not, or need not, download.

It is verified against forge.lock like any download, so it does not matter who brings it. Only `pin` believes it. What
is pinned by its SHA-256 alone gets its BLAKE3 when the file is brought.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.locking import declared_by
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.fetch.digests import Digests, Received
from mmojo_forge.model.lockfile import Lock, Pin
from mmojo_forge.store.protocol import Store

_CHUNK = 1 << 20
_SCHEME = "file:"
_VERSION = re.compile(r"[0-9].*(?=\.[A-Za-z])")


@dataclass(frozen=True, slots=True)
class Added:
    """A source that is in the store now, and whether forge.lock was changed for it."""

    pin: Pin
    pinned: bool


def add_source(workspace: Workspace, store: Store, path: Path, *, name: str = "", pin: bool = False) -> Added:
    """Takes the file at `path` into the store as the source that it is by its content, and adds to forge.lock its
    BLAKE3 if that was not known; with `pin` it becomes what forge.lock pins `name` (or the file's own name) to, which
    recipes must declare as a File.

    Raises EngineError (`source-unknown`, `source-mismatch`, `source-unreadable`).
    """
    lock = workspace.read_lock()
    received = _measure(path)
    found = _find(lock, received)
    if pin:
        found = _pin(workspace, lock, name or path.name, received)
    elif found is None:
        raise _unknown(lock, name or path.name, path, received)
    elif name and found.name != name:
        raise EngineError(
            f"add source {path}: it is {found.name}, not {name}",
            detail="Leave --name out; what it is follows from its content.",
            reason="source-mismatch",
        )
    declared, _ = declared_by(workspace, lock)
    source = declared.sources.get(found.name)
    executable = bool(source and source.executable)
    store.add_file(path, digest=received.blake3, size=received.size, executable=executable)
    if found.measured:
        return Added(found, pin)
    found = replace(found, blake3=received.blake3)
    workspace.write_lock(replace(lock, sources={**lock.sources, found.name: found}))
    return Added(found, True)


def _measure(path: Path) -> Received:
    digests = Digests()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digests.update(chunk)
    except OSError as error:
        raise EngineError(f"add source {path}: {error.strerror}", reason="source-unreadable") from error
    return digests.received(str(path))


def _find(lock: Lock, received: Received) -> Pin | None:
    known = (pin for pin in _pins(lock) if pin.blake3 == received.blake3)
    unmeasured = (pin for pin in lock.sources.values() if not pin.measured)
    named = (pin for pin in unmeasured if (pin.sha256, pin.size) == (received.sha256, received.size))
    return next(known, None) or next(named, None)


def _pins(lock: Lock) -> Iterator[Pin]:
    yield from lock.sources.values()
    for userland in lock.userlands.values():
        yield from userland.closure.values()


def _pin(workspace: Workspace, lock: Lock, name: str, received: Received) -> Pin:
    """The new pin, which is in forge.lock now."""
    declared, _ = declared_by(workspace, lock)
    wanted = declared.sources.get(name)
    if wanted is None or not wanted.locator.startswith(_SCHEME):
        by_hand = [one for one, source in declared.sources.items() if source.locator.startswith(_SCHEME)]
        raise EngineError(
            f"pin {name}: no recipe declares it as a File",
            detail=f"Declared: {', '.join(sorted(by_hand)) or 'none'}. Others are pinned by `forge lock`.",
            reason="source-unknown",
        )
    pin = Pin(name, wanted.locator, received.sha256, received.blake3, received.size)
    workspace.write_lock(replace(lock, sources={**lock.sources, name: pin}))
    return pin


def _unknown(lock: Lock, name: str, path: Path, received: Received) -> EngineError:
    pin = lock.sources.get(name) or _other_version(lock, name)
    if pin is None:
        return EngineError(
            f"add source {path}: forge.lock pins nothing that has this content (SHA-256 {received.sha256})",
            detail="Is it another version? For a file that a recipe declares as File(NAME): --pin --name NAME.",
            reason="source-unknown",
        )
    return EngineError(
        f"add source {path}: it is not what forge.lock pins as {pin.name}",
        detail=f"expected SHA-256 {pin.sha256}, {pin.size} bytes\ngot      SHA-256 {received.sha256}, "
        f"{received.size} bytes",
        reason="source-mismatch",
    )


def _other_version(lock: Lock, name: str) -> Pin | None:
    """The only pin that is called like `name`, apart from what stands between the first digit and the ending."""
    alike = [pin for pin in lock.sources.values() if _VERSION.sub("", pin.name) == _VERSION.sub("", name)]
    return alike[0] if len(alike) == 1 else None
