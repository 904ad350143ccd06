"""Workspace files as inputs: the tree of a file or folder, as the store would hold it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.recipe.errors import RecipeError

_CHUNK = 1 << 20
# Tools write these beside sources. They would change the tree, and so the action keys, after each run of a tool.
IGNORED = frozenset({"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


def read_local_tree(path: Path) -> Tree:
    """The tree of a workspace file or folder, without the entries in IGNORED; raises RecipeError."""
    try:
        return Tree.of(_entries(path, ""))
    except OSError as error:
        raise RecipeError(f"read {path}: {error.strerror}", reason="local-files-missing") from error


def _entries(path: Path, name: str) -> Iterator[TreeEntry]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        yield TreeEntry(name, EntryKind.SYMLINK, target=os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        kind = EntryKind.EXECUTABLE if status.st_mode & stat.S_IXUSR else EntryKind.FILE
        yield TreeEntry(name, kind, _digest(path), status.st_size)
    elif stat.S_ISDIR(status.st_mode):
        yield TreeEntry(name, EntryKind.DIRECTORY)
        for child in sorted(os.listdir(path)):
            if child not in IGNORED:
                yield from _entries(path / child, f"{name}/{child}" if name else child)
    else:
        raise RecipeError(f"read {path}: not a file, folder or symlink", reason="local-files-kind")


def _digest(path: Path) -> BlobDigest:
    hasher = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return BlobDigest(hasher.hexdigest())
