"""One registration: content is staged in tmp, then published in blobs/ and trees/ together with its rows.

    stage      hash, drop what the store has, keep the rest in tmp                         any number of threads
    publish    publish lock, shared ──▶ intent ──▶ renames ──▶ rows ──▶ intent away        all of it or nothing

A process that dies between the first rename and the commit leaves its intent, from which the next one undoes it.

Renaming without replacing: renameat2(2) with RENAME_NOREPLACE, which Python's `os` does not offer.
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
# Older C libraries have no wrapper for the call.
_RENAMEAT2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def rename_new(source: str, source_fd: int, target: str, target_fd: int) -> None:
    """Give a file its name, relative to directory descriptors; raises FileExistsError if the name is taken.

    Where the C library or the file system has no such rename, a hard link does the same in two steps.
    """
    code = _renameat2(source, source_fd, target, target_fd)
    if code in (errno.EINVAL, errno.ENOSYS):
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        os.unlink(source, dir_fd=source_fd)
    elif code:
        raise OSError(code, os.strerror(code), target)


def _renameat2(source: str, source_fd: int, target: str, target_fd: int) -> int:
    """The error number, 0 for success."""
    if _RENAMEAT2 is None:
        return errno.ENOSYS
    done = _RENAMEAT2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), _RENAME_NOREPLACE)
    return ctypes.get_errno() if done else 0


CHUNK = 1 << 20
_TIMES = (layout.EPOCH, layout.EPOCH)


class Blob(NamedTuple):
    """One file in blobs/: the executable bit belongs to the file, so content may occur in both forms."""

    digest: BlobDigest
    executable: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """Content on its way, and its columns. It lies in the process's directory under `name`, or, when `moved_from`
    is set, still in that directory of the tree that is moved in."""

    name: str
    size: int
    sha256: str
    moved_from: str | None = None


class VanishedError(Exception):
    """A blob that was found in the store was collected before the tree that needs it was registered: start again."""


class Batch:
    """A registration under way. Callers may assume that no content is staged twice, whatever the threads do."""

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
        """Remove what was staged and not published."""
        for name in self._made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._process.fd)
        self._made.clear()

    def missing(self, blobs: Iterable[Blob]) -> set[Blob]:
        """Those of the blobs that the store does not have; the others stay noted as needed."""
        wanted = set(blobs)
        present = {blob for blob, size in self._registered(wanted).items() if self._is_whole(blob, size)}
        with self._lock:
            self._reused |= present
        return wanted - present

    def claim(self, blobs: Iterable[Blob]) -> set[Blob]:
        """Those of the blobs that are neither in the store nor claimed; the caller has to stage them."""
        with self._lock:
            wanted = set(blobs) - self._claimed
        missing = self.missing(wanted)
        with self._lock:
            missing -= self._claimed
            self._claimed |= wanted
        return missing

    def stage_bytes(self, blob: Blob, data: bytes) -> None:
        """Stage content that is in memory and was claimed."""
        name, fd = self._create()
        try:
            write_all(fd, data)
            finish(fd, blob.executable)
        finally:
            os.close(fd)
        self.stage(blob, Staged(name, len(data), hashlib.sha256(data).hexdigest()))

    def stage_copy(self, blob: Blob, path: Path) -> None:
        """Stage a copy of a file that was claimed."""
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
        """Stage a file that was claimed and lies on the store's file system, by moving it."""
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
        """Copy and stage content of unknown digest; what it is, and its size. Stops reading beyond `most` bytes.

        `once` says that it cannot be read again, so it is kept until published even where the store has it.
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
        """Publish the file as this blob later on."""
        with self._lock:
            self._staged[blob] = staged

    def publish(self, trees: Sequence[Tree], moved_fd: int | None = None) -> None:
        """Make the trees valid, all or none; `moved_fd` is the tree that is moved in. Raises VanishedError to be done
        again."""
        manifests = [self._stage_manifest(tree) for tree in trees]
        with scratch.locked(os.path.join(self._root, layout.TMP), layout.PUBLISH_LOCK, fcntl.LOCK_SH):
            for blob in self._reused - self._registered(self._reused).keys():
                if blob not in self._spare:
                    raise VanishedError
                self._staged[blob] = self._spare[blob]
            paths = [f"{layout.BLOBS}/{layout.blob_path(*blob)}" for blob in self._staged]
            paths += [f"{layout.TREES}/{tree.id}" for tree in trees]
            self.intent = self._process.note_intent(paths)
            self._leases.hold(tree.id for tree in trees)
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
        """The sizes of those of the blobs that have a row."""
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
                [(blob.digest, blob.executable, one.size, one.sha256, epoch) for blob, one in self._staged.items()],
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
    """The blobs a tree needs, with their sizes."""
    return {
        Blob(entry.digest, entry.kind is EntryKind.EXECUTABLE): entry.size
        for entry in tree.entries
        if entry.digest is not None
    }


def _move_into_shard(name: str, source_fd: int, path: str, blobs_fd: int, size: int) -> None:
    try:
        rename_new(name, source_fd, path, blobs_fd)
    except FileNotFoundError:
        # The first blob of its shard: 256 empty directories would be slow to make and to remove.
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o755, dir_fd=blobs_fd)
        _move_into_shard(name, source_fd, path, blobs_fd, size)
    except FileExistsError:
        # Another process published it meanwhile. Its file stays, for somebody may be linking it at this moment, and
        # a file that is replaced then cannot be linked any more; only one that is cut short gives way.
        if os.stat(path, dir_fd=blobs_fd, follow_symlinks=False).st_size == size:
            os.unlink(name, dir_fd=source_fd)
        else:
            os.rename(name, path, src_dir_fd=source_fd, dst_dir_fd=blobs_fd)


def finish(fd: int, executable: bool) -> None:
    """Give a file the mode and time that everything stored has."""
    os.fchmod(fd, 0o555 if executable else 0o444)
    os.utime(fd, _TIMES)
