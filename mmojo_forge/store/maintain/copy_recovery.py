"""Finds intact copies of damaged blobs and manifests in the store itself, and verifies each while it copies.

For a blob it tries the damaged file first, because only its mode or row may be wrong. Then it tries the blob with the
other executable bit, then the objects. A file in an object usually is the blob itself, by hard link. It is a file of
its own if the blob ran out of links or has vanished.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.digest import BlobDigest, TreeId
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store import layout, objects
from mmojo_forge.store.add import import_files, scan
from mmojo_forge.store.add.batch import CHUNK, Blob, finish
from mmojo_forge.store.scratch import ProcessScratch, write_all

# O_NONBLOCK: opening a FIFO in a damaged store must not hang.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Copy:
    """A verified copy of a blob, in the process's directory under `name`. `size` in bytes."""

    name: str
    size: int
    sha256: str


class CopyRecovery:
    """Looks for intact copies in the store at `root`."""

    def __init__(self, root: str, process: ProcessScratch) -> None:
        self._root = root
        self._process = process
        self._objects: dict[str, list[str]] = {}
        for tree, name in objects.list_objects(root):
            self._objects.setdefault(tree, []).append(name)

    def copy(self, blob: Blob, holders: Iterable[tuple[TreeId, str]]) -> Copy | None:
        """A verified copy of the blob, or None if no intact one is found.

        `holders` are the trees that have the blob, each with its path in the tree.
        """
        for path in self._candidates(blob, holders):
            found = self._copy(os.path.join(self._root, path), blob)
            if found is not None:
                return found
        return None

    def manifest(self, tree: TreeId) -> bytes | None:
        """The manifest of the tree, made from an intact object; None if there is no such object."""
        for name in self._objects.get(tree, ()):
            with contextlib.suppress(OSError, ForgeError):
                found = _tree_at(os.path.join(self._root, layout.OBJECTS), name)
                if found.id == tree:
                    return found.encode()
        return None

    def _candidates(self, blob: Blob, holders: Iterable[tuple[TreeId, str]]) -> Iterator[str]:
        for executable in (blob.executable, not blob.executable):
            yield f"{layout.BLOBS}/{layout.blob_path(blob.digest, executable)}"
        for tree, path in holders:
            for name in self._objects.get(tree, ()):
                yield f"{layout.OBJECTS}/{name}/{path}".rstrip("/")

    def _copy(self, path: str, blob: Blob) -> Copy | None:
        try:
            source = os.open(path, _READ)
        except OSError:
            return None
        name = self._process.new_name("copy")
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                return None
            target = os.open(name, _WRITE, 0o600, dir_fd=self._process.fd)
            try:
                hasher, sha256, size = blake3(), hashlib.sha256(), 0
                while chunk := _read(source):
                    hasher.update(chunk)
                    sha256.update(chunk)
                    write_all(target, chunk)
                    size += len(chunk)
                finish(target, blob.executable)
            finally:
                os.close(target)
        finally:
            os.close(source)
        if hasher.hexdigest() == blob.digest:
            return Copy(name, size, sha256.hexdigest())
        os.unlink(name, dir_fd=self._process.fd)
        return None


def _read(fd: int) -> bytes:
    """The next bytes. A read error counts as the end of the file; its digest is then wrong."""
    try:
        return os.read(fd, CHUNK)
    except OSError:
        return b""


def _tree_at(parent: str, name: str) -> Tree:
    """The tree of the files at a path; raises OSError or ForgeError if they cannot be a tree."""
    top = os.path.join(parent, name)
    if os.path.isfile(top) and not os.path.islink(top):
        parent_fd = os.open(parent, scan.DIRECTORY_FLAGS)
        try:
            entry = _entry(parent_fd, import_files.found_file(os.stat(top), name))
        finally:
            os.close(parent_fd)
        return Tree((TreeEntry("", entry.kind, entry.digest, entry.size),))
    root_fd = os.open(top, scan.DIRECTORY_FLAGS)
    try:
        found = scan.scan(root_fd, top, Limits(), frozenset())
        return Tree.of([*found.entries, *(_entry(root_fd, file) for file in found.files)])
    finally:
        os.close(root_fd)


def _entry(root_fd: int, file: scan.ScannedFile) -> TreeEntry:
    directory_fd = scan.open_beneath(root_fd, file.directory)
    try:
        fd = os.open(file.name, _READ, dir_fd=directory_fd)
    finally:
        os.close(directory_fd)
    try:
        digest, _, size = import_files.hash_descriptor(fd)
    finally:
        os.close(fd)
    return TreeEntry(file.path, EntryKind.EXECUTABLE if file.executable else EntryKind.FILE, BlobDigest(digest), size)
