"""Adds trees to the store: from a path, from one file, from another store, or in pieces from a cache.

Each addition is one batch, which succeeds whole or leaves nothing. `Adder` has the ways in. `TreeReceiver` stages the
pieces that a fetch hands over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store import scratch
from mmojo_forge.store.add import import_files, scan
from mmojo_forge.store.add.batch import Batch, Blob, VanishedError, blobs_of
from mmojo_forge.store.db.database import Database
from mmojo_forge.store.db.leases import Leases
from mmojo_forge.store.failure import reported
from mmojo_forge.store.maintain import recovery
from mmojo_forge.store.protocol import Fetch, OpenBlob, StoreError


class TreeReceiver:
    """A `Sink` that stages the content it takes; safe in several threads.

    It trusts the fetch to have verified each file by its digest. If a tree has the same content both executable and
    not, that makes two blobs, because the bit belongs to the file in `blobs/`.
    """

    def __init__(self, batch: Batch, tree: Tree) -> None:
        self._batch = batch
        self._missing: dict[BlobDigest, list[Blob]] = {}
        for blob in batch.claim(blobs_of(tree)):
            self._missing.setdefault(blob.digest, []).append(blob)

    def lacking(self, files: Sequence[TreeEntry]) -> set[BlobDigest]:
        """The digests of content that the store lacks in at least one form (executable or not) that the tree needs."""
        return {file.digest for file in files if file.digest is not None and file.digest in self._missing}

    def take_small(self, files: Sequence[tuple[TreeEntry, bytes]]) -> None:
        """Stage some files with their content."""
        for file, content in files:
            for blob in self._taken(file):
                self._batch.stage_bytes(blob, content)

    def take_file(self, file: TreeEntry, path: Path) -> None:
        """Stage a file by moving it; copies it first if the tree needs both forms."""
        *copied, moved = self._taken(file)
        for blob in copied:
            self._batch.stage_copy(blob, path)
        self._batch.stage_file(moved, path)

    def check_complete(self) -> None:
        """Raise StoreError (`blob-missing`) unless all missing content has arrived."""
        if self._missing:
            raise StoreError(
                f"receive tree: the fetch left out blob {next(iter(self._missing))}", reason="blob-missing"
            )

    def _taken(self, file: TreeEntry) -> list[Blob]:
        assert file.digest is not None
        return self._missing.pop(file.digest)


_UNLIMITED = 1 << 62


class Adder:
    """Adds trees to the store at `root`. Callers may assume that every returned tree is valid."""

    def __init__(self, root: str, database: Database, process: scratch.ProcessScratch, leases: Leases) -> None:
        self._root = root
        self._database = database
        self._scratch = process
        self._leases = leases

    def add_path(self, path: Path, *, move: bool, limits: Limits, ignored: frozenset[str]) -> Tree:
        """The tree of the files at a path. Follows symlinks in the parent directories, but not at the path or below."""
        try:
            parent_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _no_path(path) from error
        try:
            status = _status(path, parent_fd)
            if stat.S_ISDIR(status.st_mode):
                root_fd = self._open_root(path, parent_fd)
                try:
                    found = scan.scan(root_fd, str(path), limits, ignored)
                    return self._take(found, root_fd, str(path), move)
                finally:
                    os.close(root_fd)
            scan.check_file(status, str(path), "")
            file = import_files.found_file(status, path.name)
            found = scan.ScannedTree(files=[file], size=file.size)
            scan.check_limits(found, str(path), limits)
            return self._take(found, parent_fd, str(path), move)
        finally:
            os.close(parent_fd)

    def add_stream(
        self,
        read: Callable[[int], bytes],
        shown: str,
        *,
        digest: BlobDigest | None,
        size: int | None,
        executable: bool,
    ) -> Tree:
        """The tree of one file, read to its end with `read`; raises StoreError (`blob-mismatch`).

        `shown` names the file in messages.
        """

        def fill(batch: Batch) -> Tree:
            most = _UNLIMITED if size is None else size
            blob, got = batch.stage_stream(read, executable, most, once=True)
            check_content(shown, blob.digest, got, digest, size)
            return Tree.of_file(blob.digest, got, executable=executable)

        return self._register(fill)

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Add a tree and read the content that is missing with `open_blob`."""

        def fill(batch: Batch) -> Tree:
            missing = batch.missing(blobs_of(tree))
            for entry in tree.entries:
                if entry.digest is None:
                    continue
                blob = Blob(entry.digest, entry.kind is EntryKind.EXECUTABLE)
                if blob in missing:
                    missing.remove(blob)
                    with open_blob(entry) as file:
                        got, size = batch.stage_stream(file.read, blob.executable, entry.size)
                    check_content(entry.path or "file", got.digest, size, entry.digest, entry.size)
            return tree

        self._register(fill)

    def receive(self, tree: Tree, fetch: Fetch, partial: Path) -> None:
        """Add a tree whose missing content `fetch` brings. `partial` keeps the pieces if it fails."""

        def fill(batch: Batch) -> Tree:
            arrival = TreeReceiver(batch, tree)
            fetch(arrival, partial)
            arrival.check_complete()
            return tree

        self._register(fill)

    def _open_root(self, path: Path, parent_fd: int) -> int:
        try:
            return os.open(path.name, scan.DIRECTORY_FLAGS, dir_fd=parent_fd)
        except PermissionError as error:
            raise scan.unreadable(str(path), "") from error

    def _take(self, found: scan.ScannedTree, root_fd: int, shown: str, move: bool) -> Tree:
        # rename(2) cannot move a file to another file system; such files are copied.
        moved_fd = root_fd if move and os.fstat(root_fd).st_dev == os.stat(self._root).st_dev else None

        def fill(batch: Batch) -> Tree:
            taken = import_files.import_files(found, root_fd, batch, shown, move=moved_fd is not None)
            if not found.entries:
                entry = taken[0]
                return Tree((TreeEntry("", entry.kind, entry.digest, entry.size),))
            return Tree.of([*found.entries, *taken])

        with reported(f"add {shown}", self._root, needed=found.size):
            return self._register(fill, moved_fd)

    def _register(self, fill: Callable[[Batch], Tree], moved_fd: int | None = None) -> Tree:
        # A collector may remove a blob that the batch wanted to reuse; then the batch starts again.
        while True:
            with self.batch() as batch:
                tree = fill(batch)
                try:
                    batch.publish([tree], moved_fd)
                except VanishedError:
                    continue
                return tree

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """A batch, undone unless the body publishes it."""
        batch = Batch(self._root, self._database, self._scratch, self._leases)
        try:
            yield batch
        finally:
            batch.close()
            if batch.intent is not None:
                recovery.retract(self._root, self._database, os.path.join(self._scratch.path, batch.intent))
                self._scratch.drop_intent(batch.intent)


def open_source(path: Path) -> BinaryIO:
    """The open file at `path`, which must not be a symlink; raises StoreError (`path-missing`)."""
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0)
    except FileNotFoundError as error:
        raise _no_path(path) from error


def _status(path: Path, parent_fd: int) -> os.stat_result:
    try:
        return os.stat(path.name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError as error:
        raise _no_path(path) from error


def _no_path(path: Path) -> StoreError:
    return StoreError(f"add {path}: no such file or directory", reason="path-missing")


def check_content(shown: str, got: BlobDigest, got_size: int, digest: BlobDigest | None, size: int | None) -> None:
    """Raise StoreError (`blob-mismatch`) unless digest and size are the expected ones; None accepts anything."""
    if size is not None and got_size != size:
        got_text = "more" if got_size > size else f"{got_size:,}"
        raise StoreError(f"add {shown}: expected {size:,} bytes, got {got_text}", reason="blob-mismatch")
    if digest is not None and got != digest:
        raise StoreError(f"add {shown}: expected blake3 {digest}, got {got}", reason="blob-mismatch")
