"""Imports the files of a scanned tree into a batch: a few threads read each file once, hash it twice, copy or move it.

Reading, hashing and writing release the interpreter's lock, so two threads keep two cores busy; many more would only
queue for it. Small files go in groups: a group needs one database query and fits in memory. Larger files stream
through in chunks. The largest files come first, so that no thread is left with one at the end.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby
from operator import attrgetter

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import EntryKind, TreeEntry
from mmojo_forge.store.add.batch import CHUNK, Batch, Blob, Staged, finish
from mmojo_forge.store.add.scan import ScannedFile, ScannedTree, check_file, open_beneath, unreadable
from mmojo_forge.store.protocol import UnstorableOutput

_SMALL = 256 << 10
_GROUP_FILES = 128
_GROUP_BYTES = 4 << 20
_SERIAL_FILES = 64
_SERIAL_BYTES = 4 << 20
# O_NONBLOCK: if a FIFO replaces a file after the scan, opening it must not hang.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Group = list[ScannedFile]
_directory = attrgetter("directory")


def import_files(found: ScannedTree, root_fd: int, batch: Batch, shown: str, *, move: bool) -> list[TreeEntry]:
    """The entries of all scanned files below `root_fd`, with their content staged in the batch.

    `shown` names the tree in messages; `move` takes the files away instead of copying them.
    """
    taker = Importer(root_fd, batch, shown, move)
    groups = list(_groups(found.files))
    if len(found.files) <= _SERIAL_FILES and found.size <= _SERIAL_BYTES:
        return list(chain.from_iterable(taker.take(group) for group in groups))
    return list(chain.from_iterable(in_threads(taker.take, groups)))


class Importer:
    """Imports groups of files of one tree into a batch; safe in several threads."""

    def __init__(self, root_fd: int, batch: Batch, shown: str, move: bool) -> None:
        self._root_fd = root_fd
        self._batch = batch
        self._shown = shown
        self._move = move

    def take(self, group: Group) -> list[TreeEntry]:
        """The entries of the files in a group: one large file, or any number of small ones."""
        if group[0].size > _SMALL:
            return [self._take_large(file) for file in group]
        return self._take_small(group)

    def _take_small(self, group: Group) -> list[TreeEntry]:
        contents = [data for _, files in groupby(group, _directory) for data in self._read_all(list(files))]
        blobs = [
            Blob(BlobDigest(blake3(data).hexdigest()), file.executable)
            for file, data in zip(group, contents, strict=True)
        ]
        missing = self._batch.claim(blobs)
        for file, blob, data in zip(group, blobs, contents, strict=True):
            if blob in missing:
                missing.remove(blob)
                if self._move:
                    self._stage_moved(file, blob, len(data), hashlib.sha256(data).hexdigest())
                else:
                    self._batch.stage_bytes(blob, data)
        return [_entry(file, blob, len(data)) for file, blob, data in zip(group, blobs, contents, strict=True)]

    def _take_large(self, file: ScannedFile) -> TreeEntry:
        directory_fd = open_beneath(self._root_fd, file.directory)
        try:
            fd = self._open(file, directory_fd)
        finally:
            os.close(directory_fd)
        try:
            if not self._move:
                blob, size = self._batch.stage_stream(lambda count: os.read(fd, count), file.executable, file.size)
                self._check_unchanged(file, size)
                return _entry(file, blob, size)
            digest, sha256, size = hash_descriptor(fd)
            self._check_unchanged(file, size)
            finish(fd, file.executable)
        finally:
            os.close(fd)
        blob = Blob(digest, file.executable)
        if self._batch.claim([blob]):
            self._stage_moved(file, blob, size, sha256)
        return _entry(file, blob, size)

    def _stage_moved(self, file: ScannedFile, blob: Blob, size: int, sha256: str) -> None:
        self._batch.stage(blob, Staged(file.name, size, sha256, moved_from=file.directory))

    def _read_all(self, files: Group) -> list[bytes]:
        """The contents of small files of one directory."""
        directory_fd = open_beneath(self._root_fd, files[0].directory)
        try:
            return [self._read(file, directory_fd) for file in files]
        finally:
            os.close(directory_fd)

    def _read(self, file: ScannedFile, directory_fd: int) -> bytes:
        fd = self._open(file, directory_fd)
        try:
            # One byte more than expected shows that the file has grown.
            data = os.read(fd, file.size + 1)
            if self._move:
                finish(fd, file.executable)
        finally:
            os.close(fd)
        self._check_unchanged(file, len(data))
        return data

    def _open(self, file: ScannedFile, directory_fd: int) -> int:
        try:
            fd = os.open(file.name, _READ_FLAGS, dir_fd=directory_fd)
        except PermissionError as error:
            raise unreadable(self._shown, file.path) from error
        try:
            # Check again after opening: something may have replaced the file since the scan.
            check_file(os.fstat(fd), self._shown, file.path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_unchanged(self, file: ScannedFile, size: int) -> None:
        if size != file.size:
            raise UnstorableOutput(
                f"add {self._shown}: {file.path} changed from {file.size:,} to {size:,} bytes while forge read it",
                detail="A process is still writing to it.",
                reason="output-changed",
            )


def in_threads(work: Callable[[Group], list[TreeEntry]], groups: list[Group]) -> list[list[TreeEntry]]:
    """The result of `work` for each group. The first error cancels the rest and leaves nothing running."""
    with ThreadPoolExecutor(thread_count(), "forge-ingest") as pool:
        futures = [pool.submit(work, group) for group in groups]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def thread_count() -> int:
    """The number of threads for file work: more than a few would wait for the interpreter's lock."""
    return max(2, min(4, os.cpu_count() or 1))


def hash_descriptor(fd: int) -> tuple[BlobDigest, str, int]:
    """BLAKE3, SHA-256 and size in bytes of the rest of an open file."""
    hasher, sha256, size = blake3(), hashlib.sha256(), 0
    while chunk := os.read(fd, CHUNK):
        hasher.update(chunk)
        sha256.update(chunk)
        size += len(chunk)
    return BlobDigest(hasher.hexdigest()), sha256.hexdigest(), size


def found_file(status: os.stat_result, name: str) -> ScannedFile:
    """A file that is a tree by itself, as a scan would give it."""
    return ScannedFile("", name, status.st_size, bool(status.st_mode & stat.S_IXUSR))


def _entry(file: ScannedFile, blob: Blob, size: int) -> TreeEntry:
    kind = EntryKind.EXECUTABLE if blob.executable else EntryKind.FILE
    return TreeEntry(file.path, kind, blob.digest, size)


def _groups(files: list[ScannedFile]) -> Iterator[Group]:
    """Groups of files: each large file alone, largest first, then the small ones in order of directory."""
    yield from ([file] for file in sorted(files, key=lambda file: -file.size) if file.size > _SMALL)
    group: Group = []
    size = 0
    for file in files:
        if file.size > _SMALL:
            continue
        if group and (len(group) >= _GROUP_FILES or size + file.size > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group
