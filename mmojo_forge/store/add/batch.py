"""A batch: one addition to the store, which stages content in tmp and then publishes it together with its rows.

    stage      hash, drop what the store has, keep the rest in tmp                         any number of threads
    publish    publish lock, shared ──▶ intent ──▶ renames ──▶ rows ──▶ empty intent       all of it or nothing

If a process dies between the first rename and the commit, its intent stays, and the next process undoes the batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import EntryKind, Tree
from mmojo_forge.store import layout, scratch
from mmojo_forge.store.add.scan import open_beneath
from mmojo_forge.store.db.database import Database, current_epoch, json_list
from mmojo_forge.store.db.leases import Leases
from mmojo_forge.store.scratch import ProcessScratch, write_all

_RENAME_NOREPLACE = 1
# Python's `os` does not offer renameat2(2), and older C libraries have no wrapper for it.
_RENAMEAT2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def rename_new(source: str, source_fd: int, target: str, target_fd: int) -> None:
    """Rename a file, relative to directory descriptors; raises FileExistsError if the new name is taken."""
    code = _renameat2(source, source_fd, target, target_fd)
    if code in (errno.EINVAL, errno.ENOSYS):
        # The C library or the file system lacks RENAME_NOREPLACE; a hard link does the same in two steps.
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        os.unlink(source, dir_fd=source_fd)
    elif code:
        raise OSError(code, os.strerror(code), target)


def _renameat2(source: str, source_fd: int, target: str, target_fd: int) -> int:
    """The error number of the call, 0 for success."""
    if _RENAMEAT2 is None:
        return errno.ENOSYS
    done = _RENAMEAT2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), _RENAME_NOREPLACE)
    return ctypes.get_errno() if done else 0


CHUNK = 1 << 20
_TIMES = (layout.EPOCH, layout.EPOCH)


class Blob(NamedTuple):
    """One file in blobs/. The executable bit belongs to the file, so the same content may be two blobs."""

    digest: BlobDigest
    executable: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged file and the columns of its row. `size` in bytes.

    The file lies in the process's directory under `name`. If `moved_from` is set, it still lies in that directory of
    the tree that is being moved in.
    """

    name: str
    size: int
    sha256: str
    moved_from: str | None = None


class VanishedError(Exception):
    """The collector removed a blob that the batch wanted to reuse; the caller starts the batch again."""


class Batch:
    """An addition in progress. Callers may assume that threads never stage the same content twice."""

    def __init__(self, root: str, database: Database, process: ProcessScratch, leases: Leases) -> None:
        self._root = root
        self._database = database
        self._process = process
        self._leases = leases
        self._claimed: set[Blob] = set()
        self._reused: set[Blob] = set()
        self._staged: dict[Blob, Staged] = {}
        self._spare: dict[Blob, Staged] = {}
        self._made: set[str] = set()
        self._lock = threading.Lock()
        self.intent: str | None = None

    def close(self) -> None:
        """Remove the files that were staged and not published."""
        for name in self._made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._process.fd)
        self._made.clear()

    def missing(self, blobs: Iterable[Blob]) -> set[Blob]:
        """Those of the blobs that the store does not have. The batch notes the others as reused."""
        wanted = set(blobs)
        present = {blob for blob, size in self._registered(wanted).items() if self._is_whole(blob, size)}
        with self._lock:
            self._reused |= present
        return wanted - present

    def claim(self, blobs: Iterable[Blob]) -> set[Blob]:
        """Those of the blobs that are neither in the store nor claimed before; the caller must stage them."""
        with self._lock:
            wanted = set(blobs) - self._claimed
        missing = self.missing(wanted)
        with self._lock:
            missing -= self._claimed
            self._claimed |= wanted
        return missing

    def stage_bytes(self, blob: Blob, data: bytes) -> None:
        """Stage a claimed blob from memory."""
        name, fd = self._create()
        try:
            write_all(fd, data)
            finish(fd, blob.executable)
        finally:
            os.close(fd)
        self.stage(blob, Staged(name, len(data), hashlib.sha256(data).hexdigest()))

    def stage_copy(self, blob: Blob, path: Path) -> None:
        """Stage a claimed blob as a copy of a file."""
        name, fd = self._create()
        try:
            with open(path, "rb", buffering=0) as file:
                hasher, size = hashlib.sha256(), 0
                while chunk := file.read(CHUNK):
                    hasher.update(chunk)
                    write_all(fd, chunk)
                    size += len(chunk)
            finish(fd, blob.executable)
        finally:
            os.close(fd)
        self.stage(blob, Staged(name, size, hasher.hexdigest()))

    def stage_file(self, blob: Blob, path: Path) -> None:
        """Stage a claimed blob by moving a file, which must lie on the store's file system."""
        with open(path, "rb", buffering=0) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            finish(file.fileno(), blob.executable)
            size = os.fstat(file.fileno()).st_size
        name = self._process.new_name("blob")
        self._made.add(name)
        os.rename(path, name, dst_dir_fd=self._process.fd)
        self.stage(blob, Staged(name, size, sha256))

    def stage_stream(
        self, read: Callable[[int], bytes], executable: bool, most: int, *, once: bool = False
    ) -> tuple[Blob, int]:
        """The blob that the content turns out to be, and its size in bytes. Stages it, and stops beyond `most` bytes.

        `once` says that the content cannot be read again. The batch then keeps it until it publishes, even if the
        store has the blob already.
        """
        name, fd = self._create()
        try:
            hasher, sha256, size = blake3(), hashlib.sha256(), 0
            while size <= most and (chunk := read(CHUNK)):
                hasher.update(chunk)
                sha256.update(chunk)
                write_all(fd, chunk)
                size += len(chunk)
            finish(fd, executable)
        finally:
            os.close(fd)
        blob = Blob(BlobDigest(hasher.hexdigest()), executable)
        staged = Staged(name, size, sha256.hexdigest())
        if self.claim([blob]):
            self.stage(blob, staged)
        elif once:
            self._spare[blob] = staged
        else:
            os.unlink(name, dir_fd=self._process.fd)
            self._made.remove(name)
        return blob, size

    def stage(self, blob: Blob, staged: Staged) -> None:
        """Note the staged file; `publish` makes it the blob."""
        with self._lock:
            self._staged[blob] = staged

    def publish(self, trees: Sequence[Tree], moved_fd: int | None = None) -> None:
        """Make the trees valid, all or none. `moved_fd` is the directory of the tree that is being moved in.

        Raises VanishedError if the collector removed a reused blob; the caller then starts again.
        """
        manifests = [self._stage_manifest(tree) for tree in trees]
        with scratch.locked(os.path.join(self._root, layout.TMP), layout.PUBLISH_LOCK, fcntl.LOCK_SH):
            # Only now are reused blobs safe: the collector needs this lock exclusively to remove any.
            for blob in self._reused - self._registered(self._reused).keys():
                if blob not in self._spare:
                    raise VanishedError
                self._staged[blob] = self._spare[blob]
            paths = [f"{layout.BLOBS}/{layout.blob_path(*blob)}" for blob in self._staged]
            paths += [f"{layout.TREES}/{tree.id}" for tree in trees]
            self.intent = self._process.note_intent(paths)
            self._leases.hold(tree.id for tree in trees)
            # Manifests come after blobs and rows come last, so a tree is never valid without its content.
            self._move(moved_fd)
            for tree, manifest in zip(trees, manifests, strict=True):
                os.rename(manifest, os.path.join(self._root, layout.TREES, tree.id), src_dir_fd=self._process.fd)
                self._made.remove(manifest)
            self._commit(trees)
            self._process.drop_intent(self.intent)
            self.intent = None

    def _stage_manifest(self, tree: Tree) -> str:
        name, fd = self._create()
        try:
            write_all(fd, tree.encode())
            finish(fd, executable=False)
        finally:
            os.close(fd)
        return name

    def _registered(self, blobs: Iterable[Blob]) -> dict[Blob, int]:
        """The sizes in bytes of those of the blobs that have a row."""
        wanted = set(blobs)
        if not wanted:
            return {}
        rows = self._database.query(
            "SELECT digest, executable, size FROM blobs WHERE digest IN (SELECT value FROM json_each(?))",
            (json_list({blob.digest for blob in wanted}),),
        )
        sizes = {Blob(digest, bool(executable)): size for digest, executable, size in rows}
        return {blob: size for blob, size in sizes.items() if blob in wanted}

    def _is_whole(self, blob: Blob, size: int) -> bool:
        # A damaged blob counts as missing, so that adding the content again replaces it. Only the size is cheap to see.
        try:
            return os.stat(os.path.join(self._root, layout.BLOBS, layout.blob_path(*blob))).st_size == size
        except FileNotFoundError:
            return False

    def _move(self, moved_fd: int | None) -> None:
        blobs_fd = os.open(os.path.join(self._root, layout.BLOBS), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        directory: str | None = None
        source_fd = os.dup(self._process.fd)
        try:
            for blob, staged in self._staged.items():
                if staged.moved_from != directory and staged.moved_from is not None and moved_fd is not None:
                    below_fd = open_beneath(moved_fd, staged.moved_from)
                    os.close(source_fd)
                    os.fchmod(below_fd, 0o700)
                    directory, source_fd = staged.moved_from, below_fd
                elif staged.moved_from != directory:
                    os.dup2(self._process.fd, source_fd, inheritable=False)
                    directory = None
                _move_into_shard(staged.name, source_fd, layout.blob_path(*blob), blobs_fd, staged.size)
                self._made.discard(staged.name)
        finally:
            os.close(source_fd)
            os.close(blobs_fd)

    def _commit(self, trees: Sequence[Tree]) -> None:
        now = time.time()
        with self._database.transaction() as connection:
            epoch = current_epoch(connection)
            connection.executemany(
                "INSERT OR IGNORE INTO blobs (digest, executable, size, sha256, epoch) VALUES (?, ?, ?, ?, ?)",
                [
                    (blob.digest, blob.executable, staged.size, staged.sha256, epoch)
                    for blob, staged in self._staged.items()
                ],
            )
            connection.executemany(
                "INSERT INTO trees (id, size, files, added, used, epoch) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET used = excluded.used",
                [(tree.id, tree.size, sum(1 for _ in tree.files()), now, now, epoch) for tree in trees],
            )

    def _create(self) -> tuple[str, int]:
        name = self._process.new_name("blob")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=self._process.fd)
        self._made.add(name)
        return name, fd


def blobs_of(tree: Tree) -> dict[Blob, int]:
    """The blobs that a tree needs, with their sizes in bytes."""
    return {
        Blob(entry.digest, entry.kind is EntryKind.EXECUTABLE): entry.size
        for entry in tree.entries
        if entry.digest is not None
    }


def _move_into_shard(name: str, source_fd: int, path: str, blobs_fd: int, size: int) -> None:
    try:
        rename_new(name, source_fd, path, blobs_fd)
    except FileNotFoundError:
        # This is the first blob of its shard. A new store does not make all 256 directories, which would be slow.
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o755, dir_fd=blobs_fd)
        _move_into_shard(name, source_fd, path, blobs_fd, size)
    except FileExistsError:
        # Another process published the blob meanwhile. Its file stays, because a process may be linking it at this
        # moment, and link(2) fails on a file that a rename replaces. Only a truncated file is replaced.
        if os.stat(path, dir_fd=blobs_fd, follow_symlinks=False).st_size == size:
            os.unlink(name, dir_fd=source_fd)
        else:
            os.rename(name, path, src_dir_fd=source_fd, dst_dir_fd=blobs_fd)


def finish(fd: int, executable: bool) -> None:
    """Give a file the mode and time that every stored file has."""
    os.fchmod(fd, 0o555 if executable else 0o444)
    os.utime(fd, _TIMES)
