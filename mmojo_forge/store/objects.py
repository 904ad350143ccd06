"""Checking trees out: directories of hard links to blobs, made in tmp and renamed into place.

Content that is verified while it is read.
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
"""A manifest's row: path, kind, then digest and size, or target."""

_TIMES = (layout.EPOCH, layout.EPOCH)
_COPY_CHUNK = 1 << 20
_LINK_ATTEMPTS = 5
_SERIAL_ROWS = 256


def read_manifest(root: str, tree: TreeId) -> bytes:
    """The tree's manifest; raises StoreError unless it is the one its id names."""
    try:
        with open(os.path.join(root, layout.TREES, tree), "rb") as file:
            manifest = file.read()
    except FileNotFoundError as error:
        raise StoreError(f"read tree {tree}: not in the store {root}", reason="tree-missing") from error
    except OSError as error:
        if error.errno not in {errno.EISDIR, errno.ELOOP, errno.EIO}:
            raise
        raise _corrupt_tree(root, tree) from error
    if blake3_hex(manifest) != tree:
        raise _corrupt_tree(root, tree)
    return manifest


def _corrupt_tree(root: str, tree: str) -> StoreError:
    return StoreError(
        f"read tree {tree}: its manifest in {root} has changed",
        detail="`forge store repair` mends it, or makes what it was of anew.",
        reason="tree-corrupt",
    )


def rows_of(manifest: bytes) -> list[Row]:
    """The rows of a manifest whose id was checked, and which therefore keeps every rule of trees."""
    rows: list[Row] = json.loads(manifest)["entries"]
    return rows


def check_out(root: str, manifest: bytes, temporary: str, target: str, shuffle: int | None = None) -> None:
    """Make the object `target` by way of the path `temporary`; does nothing when somebody else is first.

    `shuffle` is the seed of another order to make files in, which some file systems then list them in.
    """
    rows = rows_of(manifest)
    if shuffle is not None:
        # What is no deeper comes first, so that directories are there before what lies in them.
        rows[1:] = sorted(random.Random(shuffle).sample(rows[1:], len(rows) - 1), key=lambda row: row[0].count("/"))
    with _Blobs(root) as blobs:
        if rows[0][1] == EntryKind.DIRECTORY:
            _check_out_directory(rows, blobs, temporary, target)
        else:
            # A rename onto another name of the same file leaves both: then somebody else was first.
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
        # Only now: an ordinary user cannot move a directory that is read-only to another one.
        os.utime(top_fd, _TIMES)
        os.fchmod(top_fd, 0o555)
    finally:
        os.close(top_fd)


def _rename_directory(temporary: str, target: str) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


@dataclass(slots=True)
class _Directory:
    """What lies directly in one directory."""

    files: list[Row] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)


def _by_directory(rows: list[Row], top_fd: int) -> dict[str, _Directory]:
    """Make the directories; what belongs in each, parents first."""
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
    """Fill the directory `fd`, which is closed, and finish it; one that is `loose` stays writable."""
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
    """The blobs, to be linked from."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._fd = os.open(os.path.join(root, layout.BLOBS), DIRECTORY_FLAGS)

    def __enter__(self) -> _Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def link(self, digest: str, executable: bool, size: int, name: str, directory_fd: int) -> None:
        """Put the blob at `name`; a blob of another size is corrupt, which costs nothing to see."""
        path = layout.blob_path(digest, executable)
        try:
            if os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_size != size:
                raise corrupt(self._root, digest)
            self._link_present(path, name, directory_fd)
        except FileNotFoundError as error:
            raise missing(self._root, digest) from error
        except OSError as error:
            # The empty file alone reaches the limit of 65,000 links that ext4 has.
            if error.errno != errno.EMLINK:
                raise
            self._copy(path, executable, name, directory_fd)

    def _link_present(self, path: str, name: str, directory_fd: int) -> None:
        """Link a file that was there a moment ago. While it is being replaced by a whole one (a rename over it), the
        kernel says ENOENT: the file it found has lost its last name."""
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
    """The error for a blob that is not there."""
    return StoreError(f"read blob {digest}: not in the store {root}", reason="blob-missing")


def corrupt(root: str, digest: str) -> StoreError:
    """The error for a blob whose content has changed."""
    return StoreError(
        f"read blob {digest}: its content in {root} has changed",
        detail="`forge store repair` mends it, or makes what has it anew.",
        reason="blob-corrupt",
    )


def list_objects(root: str) -> Iterator[tuple[str, str]]:
    """The tree id and the directory entry's name of each object."""
    for name in os.listdir(os.path.join(root, layout.OBJECTS)):
        yield name.partition("-")[0], name


_BUFFER = 1 << 18


class _VerifiedFile(io.RawIOBase):
    """A file that raises at its end unless its content was what the digest says."""

    def __init__(self, root: str, digest: BlobDigest, file: io.FileIO) -> None:
        self._root = root
        self._digest = digest
        self._file = file
        self._hasher = blake3()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read the next bytes; they may be used only once the end was reached without an error."""
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
    """The file's content; reading to the end raises StoreError (`blob-corrupt`) where it is not what it should be."""
    try:
        file = io.FileIO(path, "rb")
    except FileNotFoundError as error:
        raise missing(root, digest) from error
    return io.BufferedReader(_VerifiedFile(root, digest, file), _BUFFER)


def read_part(path: str, offset: int, count: int) -> bytes:
    """Some bytes of a file; fewer at its end, none where it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)
