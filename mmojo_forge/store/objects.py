"""Objects: checked-out trees, made of hard links to blobs; and blobs that are verified while they are read.

`check_out` makes an object in tmp and renames it into place, so that an object is complete or absent. `read_manifest`
and `open_verified` read the store and raise if the content does not match its id.
"""

from __future__ import annotations

import errno
import io
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest, TreeId, blake3_hex
from mmojo_forge.model.tree import EntryKind
from mmojo_forge.store import layout
from mmojo_forge.store.add.import_files import thread_count
from mmojo_forge.store.add.scan import DIRECTORY_FLAGS, open_beneath
from mmojo_forge.store.protocol import StoreError

Row = list[Any]
"""A row of a manifest: path, kind, then digest and size (file) or target (symlink)."""

_TIMES = (layout.EPOCH, layout.EPOCH)
_COPY_CHUNK = 1 << 20
_LINK_ATTEMPTS = 5
# For fewer rows, starting threads takes longer than it saves.
_SERIAL_ROWS = 256


def read_manifest(root: str, tree: TreeId) -> bytes:
    """The manifest of the tree; raises StoreError (`tree-missing`, `tree-corrupt`) unless it hashes to the id."""
    try:
        with open(os.path.join(root, layout.TREES, tree), "rb") as file:
            manifest = file.read()
    except FileNotFoundError as error:
        raise StoreError(f"read tree {tree}: not in the store {root}", reason="tree-missing") from error
    except OSError as error:
        if error.errno not in {errno.EISDIR, errno.ELOOP, errno.EIO}:
            raise
        # A directory or symlink in the manifest's place, or a disk error: damage that `repair` handles.
        raise _corrupt_tree(root, tree) from error
    if blake3_hex(manifest) != tree:
        raise _corrupt_tree(root, tree)
    return manifest


def _corrupt_tree(root: str, tree: str) -> StoreError:
    return StoreError(
        f"read tree {tree}: its manifest in {root} has changed",
        detail="`forge store repair` restores it from a copy, or makes the tree again.",
        reason="tree-corrupt",
    )


def rows_of(manifest: bytes) -> list[Row]:
    """The rows of a manifest. The caller has checked its id, so the manifest keeps every rule of trees."""
    # Tree.parse would check the rules again, which takes too long for large trees.
    rows: list[Row] = json.loads(manifest)["entries"]
    return rows


def check_out(root: str, manifest: bytes, temporary: str, target: str, shuffle: int | None = None) -> None:
    """Make the object at the path `temporary` and rename it to `target`. Another process may make it first.

    `shuffle` seeds another order in which to make files; some file systems list files in the order they were made.
    """
    rows = rows_of(manifest)
    if shuffle is not None:
        # Shuffle only within each depth, so that a directory is made before its content.
        rows[1:] = sorted(random.Random(shuffle).sample(rows[1:], len(rows) - 1), key=lambda row: row[0].count("/"))
    with _Blobs(root) as blobs:
        if rows[0][1] == EntryKind.DIRECTORY:
            _check_out_directory(rows, blobs, temporary, target)
        else:
            # rename(2) does nothing if both names are the same file. Then another process was first, and the caller
            # removes `temporary`.
            folder, name = os.path.split(temporary)
            _link_files(blobs, _Directory(files=[[name, *rows[0][1:]]]), os.open(folder, DIRECTORY_FLAGS), loose=True)
            os.rename(temporary, target)


def _check_out_directory(rows: list[Row], blobs: _Blobs, temporary: str, target: str) -> None:
    os.mkdir(temporary, 0o755)
    top_fd = os.open(temporary, DIRECTORY_FLAGS)
    try:
        directories = _by_directory(rows, top_fd)

        def fill(path: str) -> None:
            _link_files(blobs, directories[path], open_beneath(top_fd, path), loose=not path)

        if len(rows) <= _SERIAL_ROWS:
            for path in directories:
                fill(path)
        else:
            with ThreadPoolExecutor(thread_count(), "forge-checkout") as pool:
                for _ in pool.map(fill, directories):
                    pass
        _rename_directory(temporary, target)
        # After the rename: without write permission on a directory, an ordinary user cannot move it to another parent.
        os.utime(top_fd, _TIMES)
        os.fchmod(top_fd, 0o555)
    finally:
        os.close(top_fd)


def _rename_directory(temporary: str, target: str) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        # The object exists: another process was first, and both have the same content.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


@dataclass(slots=True)
class _Directory:
    """The files and symlinks that lie directly in one directory."""

    files: list[Row] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)


def _by_directory(rows: list[Row], top_fd: int) -> dict[str, _Directory]:
    """The files and symlinks of each directory, parents first. Makes the directories themselves."""
    directories = {"": _Directory()}
    for row in rows[1:]:
        path, kind = row[0], row[1]
        parent, _, name = path.rpartition("/")
        if kind == EntryKind.DIRECTORY:
            os.mkdir(path, 0o755, dir_fd=top_fd)
            directories[path] = _Directory()
        elif kind == EntryKind.SYMLINK:
            directories[parent].links.append((name, row[2]))
        else:
            directories[parent].files.append([name, *row[1:]])
    return directories


def _link_files(blobs: _Blobs, directory: _Directory, fd: int, *, loose: bool) -> None:
    """Fill the directory `fd`, set its final time and mode, and close it. A `loose` directory stays writable."""
    try:
        for name, kind, digest, size in directory.files:
            blobs.link(digest, kind == EntryKind.EXECUTABLE, size, name, fd)
        for name, target in directory.links:
            os.symlink(target, name, dir_fd=fd)
            os.utime(name, _TIMES, dir_fd=fd, follow_symlinks=False)
        if not loose:
            os.utime(fd, _TIMES)
            os.fchmod(fd, 0o555)
    finally:
        os.close(fd)


class _Blobs:
    """The open blobs/ directory, from which objects are linked."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._fd = os.open(os.path.join(root, layout.BLOBS), DIRECTORY_FLAGS)

    def __enter__(self) -> _Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def link(self, digest: str, executable: bool, size: int, name: str, directory_fd: int) -> None:
        """Link the blob to `name`; raises StoreError (`blob-missing`, `blob-corrupt`)."""
        path = layout.blob_path(digest, executable)
        # Checking the size costs one stat. Hashing every blob at each checkout would cost far more; `verify` does it.
        try:
            if os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_size != size:
                raise corrupt(self._root, digest)
            self._link_present(path, name, directory_fd)
        except FileNotFoundError as error:
            raise missing(self._root, digest) from error
        except OSError as error:
            # ext4 allows 65,000 links to a file. In practice only the empty file reaches that.
            if error.errno != errno.EMLINK:
                raise
            self._copy(path, executable, name, directory_fd)

    def _link_present(self, path: str, name: str, directory_fd: int) -> None:
        """Link a file that existed a moment ago, with a few attempts."""
        # A rename over the file (a repair) makes link(2) fail with ENOENT: the inode it found has lost its last name.
        for attempt in range(_LINK_ATTEMPTS):
            try:
                os.link(path, name, src_dir_fd=self._fd, dst_dir_fd=directory_fd, follow_symlinks=False)
                return
            except FileNotFoundError:
                if attempt + 1 == _LINK_ATTEMPTS:
                    raise

    def _copy(self, path: str, executable: bool, name: str, directory_fd: int) -> None:
        source_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy_fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
            try:
                while os.sendfile(copy_fd, source_fd, None, _COPY_CHUNK):
                    pass
                os.fchmod(copy_fd, 0o555 if executable else 0o444)
                os.utime(copy_fd, _TIMES)
            finally:
                os.close(copy_fd)
        finally:
            os.close(source_fd)


def missing(root: str, digest: str) -> StoreError:
    """The error for a missing blob."""
    return StoreError(f"read blob {digest}: not in the store {root}", reason="blob-missing")


def corrupt(root: str, digest: str) -> StoreError:
    """The error for a blob whose content has changed."""
    return StoreError(
        f"read blob {digest}: its content in {root} has changed",
        detail="`forge store repair` restores it from a copy, or makes the trees that have it again.",
        reason="blob-corrupt",
    )


def list_objects(root: str) -> Iterator[tuple[str, str]]:
    """The tree id and the directory entry's name of each object."""
    for name in os.listdir(os.path.join(root, layout.OBJECTS)):
        yield name.partition("-")[0], name


_BUFFER = 1 << 18


class _VerifiedFile(io.RawIOBase):
    """A file that raises at its end unless its content matches the digest."""

    def __init__(self, root: str, digest: BlobDigest, file: io.FileIO) -> None:
        self._root = root
        self._digest = digest
        self._file = file
        self._hasher = blake3()

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: object) -> int:
        """The number of bytes read. Callers must not trust the bytes until they reach the end without an error."""
        view = memoryview(cast(bytearray, buffer))
        count = self._file.readinto(view)
        if count:
            self._hasher.update(view[:count])
        elif view.nbytes and self._hasher.hexdigest() != self._digest:
            raise corrupt(self._root, self._digest)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def open_verified(root: str, path: str, digest: BlobDigest) -> BinaryIO:
    """The content of the file at `path`; reading to its end raises StoreError (`blob-corrupt`) on a wrong digest.

    Raises StoreError (`blob-missing`) if the file does not exist.
    """
    try:
        file = io.FileIO(path, "rb")
    except FileNotFoundError as error:
        raise missing(root, digest) from error
    return io.BufferedReader(_VerifiedFile(root, digest, file), _BUFFER)


def read_part(path: str, offset: int, count: int) -> bytes:
    """Up to `count` bytes of a file; fewer at its end, none if it does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)
