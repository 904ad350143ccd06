"""Garbage-collection roots: symlinks outside the store, each with an entry in roots/ that points back to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store import layout, noop_lookup
from mmojo_forge.store.protocol import GcRoot, StoreError
from mmojo_forge.store.scratch import ProcessScratch

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ELOOP)


def add(store: str, link: str, target: str, scratch: ProcessScratch) -> None:
    """Point the link at an object, atomically, and register it first: a link that is seen keeps its object."""
    link = noop_lookup.settled(link)
    if os.path.lexists(link) and not os.path.islink(link):
        raise StoreError(f"link {link}: it exists and is no symlink", detail="Move it away.", reason="root-not-a-link")
    back = os.path.join(scratch.path, scratch.new_name("root"))
    os.symlink(link, back)
    os.rename(back, noop_lookup.root_path(store, link))
    directory, name = os.path.split(link)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name[:200]}.{os.path.basename(back)}.{os.getpid()}")
    os.symlink(noop_lookup.link_text(store, link, target), temporary)
    try:
        os.rename(temporary, link)
    except BaseException:
        os.unlink(temporary)
        raise


def listed(store: str, *, strict: bool = False) -> Iterator[GcRoot]:
    """All registered links; one that is gone, or points elsewhere, keeps nothing alive.

    An entry may also be a link straight to an object. `strict` raises OSError where a link cannot be looked at at all:
    whoever deletes on the strength of this must not take "I cannot see it" for "it is gone".
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
        # Only what is above the link is followed: the usual entry names a link outside, which leads to an object too.
        direct = _object_at(store, noop_lookup.settled(link))
        yield GcRoot(Path(entry), *direct) if direct else _root(store, link, strict)


def forget_dangling(store: str, before: float) -> int:
    """Drop the entries whose links are gone, if they were made before that time; how many."""
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
    """The object at a path, whether or not it is there."""
    parent, name = os.path.split(target)
    tree = name.partition("-")[0]
    if parent != os.path.join(os.path.realpath(store), layout.OBJECTS) or not is_hex_digest(tree):
        return None
    return Path(target), TreeId(tree)
