"""Roots: the links that keep objects alive. A link lies outside the store, and an entry in roots/ points back to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store import layout, noop_lookup
from mmojo_forge.store.protocol import GcRoot, StoreError
from mmojo_forge.store.scratch import ProcessScratch

# Errors that prove that a link is gone: its path does not exist, is not a symlink (EINVAL), or is a loop.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP)


def add(store: str, link: str, target: str, scratch: ProcessScratch) -> None:
    """Point the link at an object, atomically; raises StoreError (`root-not-a-link`).

    Registers the link first, so that every visible link keeps its object alive.
    """
    link = noop_lookup.settled(link)
    if os.path.lexists(link) and not os.path.islink(link):
        raise StoreError(
            f"link {link}: the path exists and is not a symlink",
            detail="Move the file away, or choose another name for the link.",
            reason="root-not-a-link",
        )
    back = os.path.join(scratch.path, scratch.new_name("root"))
    os.symlink(link, back)
    os.rename(back, noop_lookup.root_path(store, link))
    directory, name = os.path.split(link)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name[:200]}.{os.path.basename(back)}.{os.getpid()}")
    # symlink(2) cannot replace an existing link; rename(2) can, atomically.
    os.symlink(noop_lookup.link_text(store, link, target), temporary)
    try:
        os.rename(temporary, link)
    except BaseException:
        os.unlink(temporary)
        raise


def listed(store: str, *, strict: bool = False) -> Iterator[GcRoot]:
    """All registered links. A link that is gone, or points elsewhere, keeps nothing alive.

    An entry may also be a link straight to an object. With `strict`, raises OSError if a link is not readable: the
    collector must not mistake an unreadable link for a missing one.
    """
    directory = os.path.join(store, layout.ROOTS)
    for name in sorted(os.listdir(directory)):
        entry = os.path.join(directory, name)
        try:
            link = os.path.join(directory, os.readlink(entry))
        except OSError as error:
            if strict and error.errno not in _GONE:
                raise
            yield GcRoot(Path(entry), None, None)
            continue
        # Resolve only the parent directories. The usual entry names a link outside the store, which also leads to an
        # object if it is followed, and would then be taken for a direct entry.
        direct = _object_at(store, noop_lookup.settled(link))
        yield GcRoot(Path(entry), *direct) if direct else _root(store, link, strict)


def forget_dangling(store: str, before: float) -> int:
    """The number of entries dropped: those made before that time (seconds since the epoch) whose links are gone."""
    directory = os.path.join(store, layout.ROOTS)
    dropped = 0
    for name in os.listdir(directory):
        entry = os.path.join(directory, name)
        try:
            link = os.path.join(directory, os.readlink(entry))
            if os.lstat(entry).st_mtime < before and not os.path.lexists(link):
                os.unlink(entry)
                dropped += 1
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return dropped


def _root(store: str, link: str, strict: bool) -> GcRoot:
    try:
        target = os.path.join(os.path.dirname(link), os.readlink(link))
    except OSError as error:
        if strict and error.errno not in _GONE:
            raise
        return GcRoot(Path(link), None, None)
    return GcRoot(Path(link), *(_object_at(store, os.path.realpath(target)) or (None, None)))


def _object_at(store: str, target: str) -> tuple[Path, TreeId] | None:
    """The object that a path names, whether or not it exists; None if the path is not in objects/."""
    parent, name = os.path.split(target)
    tree = name.partition("-")[0]
    if parent != os.path.join(os.path.realpath(store), layout.OBJECTS) or not is_hex_digest(tree):
        return None
    return Path(target), TreeId(tree)
