"""Garbage-collection roots: symlinks outside the store, each with an entry in roots/ that points back to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store import known, layout
from mmojo_forge.store.protocol import Root, StoreError
from mmojo_forge.store.scratch import ProcessScratch


def add(store: str, link: str, target: str, scratch: ProcessScratch) -> None:
    """Point the link at an object, atomically, and register it first: a link that is seen keeps its object."""
    link = known.settled(link)
    if os.path.lexists(link) and not os.path.islink(link):
        raise StoreError(f"link {link}: it exists and is no symlink", detail="Move it away.", reason="root-not-a-link")
    back = os.path.join(scratch.path, scratch.new_name("root"))
    os.symlink(link, back)
    os.rename(back, known.root_path(store, link))
    directory, name = os.path.split(link)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name[:200]}.{os.path.basename(back)}.{os.getpid()}")
    os.symlink(known.link_text(store, link, target), temporary)
    try:
        os.rename(temporary, link)
    except BaseException:
        os.unlink(temporary)
        raise


def listed(store: str) -> Iterator[Root]:
    """All registered links; one that is gone, or points elsewhere, keeps nothing alive."""
    directory = os.path.join(store, layout.ROOTS)
    for name in sorted(os.listdir(directory)):
        link = os.readlink(os.path.join(directory, name))
        yield _root(store, link)


def _root(store: str, link: str) -> Root:
    try:
        target = os.path.realpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    except OSError:
        return Root(Path(link), None, None)
    parent, name = os.path.split(target)
    tree = name.partition("-")[0]
    if parent != os.path.join(os.path.realpath(store), layout.OBJECTS) or not is_hex_digest(tree):
        return Root(Path(link), None, None)
    return Root(Path(link), Path(target), TreeId(tree))
