"""The store on this machine: blobs, trees, objects, traces, roots, logs and locks in one directory.

This is a façade: it owns the directory, the database connection and the process's scratch space, says what failed in
the words of the caller, and leaves each job to the module that has its name. It has more methods than a class should
because it is the whole Store protocol in one object.

Making everything written so far durable, in one system call for any number of files.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import zstandard

from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.digest import ActionKey, BlobDigest, DerivationId, Sha256, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.trace import Trace
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry, check_name
from mmojo_forge.store import layout, noop_lookup, objects, scratch
from mmojo_forge.store.add.add import Adder, open_source
from mmojo_forge.store.bundle.reader import Imported, read_bundle
from mmojo_forge.store.db import locks
from mmojo_forge.store.db.database import Database, json_list, new_epoch
from mmojo_forge.store.db.leases import Leases
from mmojo_forge.store.db.traces import Traces
from mmojo_forge.store.failure import reported
from mmojo_forge.store.maintain import recovery, roots
from mmojo_forge.store.maintain.maintenance import Maintenance
from mmojo_forge.store.maintain.repair import RepairResult
from mmojo_forge.store.maintain.verify import OnProgress, VerifyReport
from mmojo_forge.store.noop_lookup import boot_id
from mmojo_forge.store.objects import open_verified, read_part
from mmojo_forge.store.protocol import Fetch, FileDigests, GcRoot, Observation, OnWait, OpenBlob, Recorded, StoreError

_LIBC = ctypes.CDLL(None, use_errno=True)


def sync_file_system(path: str) -> None:
    """Return when the file system that `path` lies on has all its data on the disk; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(fd)


_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


class LocalStore:
    """An open store. Callers may assume that leftovers of dead processes are gone; every method is thread-safe."""

    def __init__(
        self, root: str, database: Database, process: scratch.ProcessScratch, shuffle: int | None = None
    ) -> None:
        self._root = root
        self._shuffle = shuffle
        self._database = database
        self._scratch = process
        self._traces = Traces(database)
        self._leases = Leases(root, database, process)
        self._intake = Adder(root, database, process, self._leases)
        self._added = False
        self.maintenance = Maintenance(root, database, process)
        """What is done to the store as a whole."""

    @classmethod
    def open(cls, path: Path, *, shuffle: int | None = None, leasing: bool = True) -> Self:
        """The store at `path`, made if need be. Raises StoreUnusableError (`store-schema`, `store-permission`).

        `shuffle` is the seed of the order that files are checked out in, for builds that must not depend on it.
        `leasing` is false for a process that stays for days and can bear to be told later that something is gone.
        """
        root = os.path.realpath(path)
        with reported("open store", root):
            _make_layout(root)
            tmp = os.path.join(root, layout.TMP)
            with scratch.locked(tmp, layout.OPEN_LOCK, fcntl.LOCK_EX):
                database = Database(os.path.join(root, layout.DATABASE))
                try:
                    recovery.clean_up_dead(root, database)
                    recovery.check_after_power_cut(root, database)
                    return cls(root, database, scratch.ProcessScratch(tmp, leasing=leasing), shuffle)
                except BaseException:
                    database.close()
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the store lies."""
        return Path(self._root)

    def close(self, *, durable: bool = True) -> None:
        """Make durable what was added, remove the process's leftovers, let go of the database.

        Without `durable`, what was added since the last `sync` is read again after a power cut, and dropped if it is
        not whole.
        """
        try:
            if self._added and durable:
                self.sync()
        finally:
            self._scratch.close()
            self._database.close()

    def sync(self) -> None:
        """Return when all that was registered so far, by anybody, would survive a power cut."""
        with reported("sync store", self._root):
            with self._database.transaction() as connection:
                epoch = new_epoch(connection)
            sync_file_system(self._root)
            with self._database.transaction() as connection:
                connection.execute("UPDATE epochs SET durable = 1 WHERE id < ? AND boot = ?", (epoch, boot_id()))
            self._added = False

    # Trees: reading

    def has_tree(self, tree: TreeId) -> bool:
        """Whether the tree is registered, with all its content."""
        return bool(self.valid_trees([tree]))

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Which of the trees are registered. Those are not collected while this process lives."""
        with reported("read store", self._root):
            return self._leases.valid(trees)

    def read_tree(self, tree: TreeId) -> Tree:
        """The manifest; raises StoreError (`tree-missing`, `tree-corrupt`)."""
        return Tree.parse(self._manifest(tree))

    def open_blob(self, digest: BlobDigest, *, executable: bool = False) -> BinaryIO:
        """The content, verified when it is read to its end; raises StoreError (`blob-missing`, `blob-corrupt`)."""
        return open_verified(self._root, self._blob(digest, executable), digest)

    def read_part(self, entry: TreeEntry, offset: int, count: int) -> bytes:
        """Some bytes of a file's content, not verified; none where it is not here."""
        if entry.digest is None:
            return b""
        return read_part(self._blob(entry.digest, entry.kind is EntryKind.EXECUTABLE), offset, count)

    # Trees: writing

    def file_digests(self, digests: Iterable[BlobDigest | Sha256]) -> list[FileDigests]:
        """Of each file here whose BLAKE3 or SHA-256 is among the digests, both."""
        wanted = json_list(digests)
        # Few ask, and an index would cost every addition: SHA-256 is found by reading the table once.
        rows = self._database.query(
            "SELECT DISTINCT digest, sha256, size FROM blobs WHERE digest IN (SELECT value FROM json_each(?)) "
            "OR sha256 IN (SELECT value FROM json_each(?))",
            (wanted, wanted),
        )
        return [FileDigests(BlobDigest(digest), Sha256(sha256), size) for digest, sha256, size in rows]

    def add_path(
        self, path: Path, *, move: bool = False, limits: Limits | None = None, ignored: frozenset[str] = frozenset()
    ) -> Tree:
        """The tree of the files at `path`, which no process may be changing any more."""
        limits = limits or Limits()
        with self._adding(f"add {path}"):
            return self._intake.add_path(path, move=move, limits=limits, ignored=ignored)

    def add_file(
        self,
        source: Path | BinaryIO,
        *,
        digest: BlobDigest | None = None,
        size: int | None = None,
        executable: bool = False,
        move: bool = False,
    ) -> Tree:
        """The tree of one file, which is verified while it is read; with `move`, `source` is gone afterwards."""
        with self._adding(f"add {source if isinstance(source, Path) else 'file'}", needed=size):
            if not isinstance(source, Path):
                return self._intake.add_stream(source.read, "file", digest=digest, size=size, executable=executable)
            with open_source(source) as file:
                tree = self._intake.add_stream(file.read, str(source), digest=digest, size=size, executable=executable)
            if move:
                source.unlink()
            return tree

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Take in a tree whose content is elsewhere."""
        with self._adding(f"add tree {tree.id}", needed=tree.size):
            self._intake.add_tree(tree, open_blob)

    def receive(self, tree: Tree, fetch: Fetch) -> None:
        """Take in a tree that `fetch` brings in pieces; what arrived stays in downloads/ if it fails."""
        with self._adding(f"receive tree {tree.id}", needed=tree.size):
            self._intake.receive(tree, fetch, Path(self._root, layout.DOWNLOADS, tree.id))

    def import_bundle(self, path: Path, *, on_progress: OnProgress | None = None) -> Imported:
        """Take in a bundle, all of it or nothing; raises BundleError unless all of it is as it must be."""
        with self._adding(f"import {path}"):
            with self._intake.batch() as batch:
                arrived = read_bundle(path, batch, self.path, on_progress)
                batch.publish(arrived.trees)
            answers = Counter(self._traces.record(trace) for trace in arrived.traces)
        return Imported(arrived.contents, answers[Recorded.NEW], answers[Recorded.CONFLICT])

    # Objects

    def checkout(self, tree: TreeId, name: str) -> Path:
        """The object, read-only; made if need be."""
        path = self.object_path(tree, name)
        with reported(f"check out {name}", self._root):
            if not self._leases.valid([tree]):
                raise self._no_tree(tree)
            self._leases.touch(tree)
            if not os.path.lexists(path):
                with self._temporary() as temporary:
                    objects.check_out(self._root, self._manifest(tree), temporary, str(path), self._shuffle)
        return path

    def object_path(self, tree: TreeId, name: str) -> Path:
        """Where the object lies, or would."""
        check_name(name)
        if len(name.encode()) > layout.MAX_OBJECT_NAME or not is_hex_digest(tree):
            raise StoreError(f"check out {name}: not a valid object name", reason="object-bad-name")
        return Path(self._root, layout.OBJECTS, layout.object_name(tree, name))

    # Traces

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that are known."""
        with reported("look up traces", self._root):
            return self._traces.lookup(keys)

    def signed(self, trace: Trace) -> Trace:
        """The trace with every signature that was recorded for what it claims."""
        with reported("look up signatures", self._root):
            return self._traces.signed(trace)

    def forget_signed_only_by(self, keys: Sequence[str]) -> int:
        """Forget the traces that these public keys, in base64, vouch for and no other; how many."""
        with reported("forget traces", self._root):
            return self._traces.forget_signed_only_by(keys)

    def conflicts(self, key: ActionKey) -> list[Trace]:
        """The traces that were recorded for a key after the first, and claim something else."""
        with reported("look up traces", self._root):
            return self._traces.conflicts(key)

    def record(self, trace: Trace) -> Recorded:
        """Keep the trace, unless the key is known already."""
        with self._adding(f"record {trace.name}"):
            return self._traces.record(trace)

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees, by output, that derivations were realised to before."""
        with reported("look up derivations", self._root):
            return self._traces.lookup_resolved(derivations)

    def record_resolved(self, resolved: Mapping[DerivationId, Mapping[str, TreeId]]) -> None:
        """Remember what derivations were realised to."""
        with self._adding("record derivations"):
            self._traces.record_resolved(resolved)

    def history(self, names: Iterable[str]) -> dict[str, Observation]:
        """What past builds took, for the names that were built before."""
        with reported("look up history", self._root):
            return self._traces.history(names)

    def earlier(self, name: str, output: str) -> list[TreeId]:
        """The last few trees of that output of what has this name, whatever its version, newest first."""
        with reported("look up traces", self._root):
            return self._traces.earlier(name, output)

    # Roots, logs, locks, scratch space

    def add_root(self, link: Path, tree: TreeId, name: str) -> Path:
        """Point the symlink `link` at the object, checked out, and keep it alive as long as it does."""
        target = self.checkout(tree, name)
        with reported(f"link {link}", str(link.parent)):
            if not noop_lookup.has_root(self._root, str(link), str(target)):
                roots.add(self._root, str(link), str(target), self._scratch)
        return target

    def roots(self) -> Iterator[GcRoot]:
        """The links that keep objects alive, and those that are gone."""
        with reported("list roots", self._root):
            return roots.listed(self._root)

    def log_path(self, key: str) -> Path:
        """Where the zstd-compressed log of a build belongs; its folder is made."""
        path = Path(self._root, layout.LOGS, layout.log_path(_plain(key)))
        with reported("make log", self._root):
            path.parent.mkdir(exist_ok=True)
        return path

    @contextmanager
    def open_log(self, key: str) -> Iterator[BinaryIO]:
        """The text of a log, also of one that is cut off; raises StoreError (`log-missing`)."""
        try:
            file = self.log_path(key).open("rb")
        except FileNotFoundError as error:
            raise StoreError(f"read log {key}: there is none", reason="log-missing") from error
        with file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            yield cast(BinaryIO, reader)

    def lock(self, key: str, *, on_wait: OnWait | None = None) -> AbstractContextManager[None]:
        """Hold the key's lock, against threads and processes."""
        return locks.held(os.path.join(self._root, layout.LOCKS), key, on_wait)

    @contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """An empty directory on the store's file system, which is removed afterwards, whatever was left in it."""
        check_name(prefix)
        name = self._scratch.new_name(f"scratch-{prefix}")
        path = os.path.join(self._scratch.path, name)
        with reported("make scratch directory", self._root):
            os.mkdir(path, 0o700)
        try:
            yield Path(path)
        finally:
            self._scratch.discard(name)

    def verify(self, *, check_content: bool = True, on_progress: OnProgress | None = None) -> VerifyReport:
        """Whether the store is what it says; nothing is changed."""
        return self.maintenance.verify(check_content=check_content, on_progress=on_progress)

    def repair(self, *, on_progress: OnProgress | None = None, on_wait: OnWait | None = None) -> RepairResult:
        """Mend what is damaged as far as the store itself has it intact; what it has not is not valid any more."""
        self._added = True
        return self.maintenance.repair(self.checkout, on_progress=on_progress, on_wait=on_wait)

    # Inside

    @contextmanager
    def _adding(self, operation: str, *, needed: int | None = None) -> Iterator[None]:
        with reported(operation, self._root, needed=needed):
            yield
        self._added = True

    @contextmanager
    def _temporary(self) -> Iterator[str]:
        name = self._scratch.new_name("object")
        try:
            yield os.path.join(self._scratch.path, name)
        finally:
            scratch.remove_tree(self._scratch.path, name)

    def _manifest(self, tree: TreeId) -> bytes:
        if not self.has_tree(tree):
            raise self._no_tree(tree)
        return objects.read_manifest(self._root, tree)

    def _no_tree(self, tree: TreeId) -> StoreError:
        return StoreError(f"read tree {tree}: not in the store {self._root}", reason="tree-missing")

    def _blob(self, digest: BlobDigest, executable: bool) -> str:
        if not is_hex_digest(digest):
            raise objects.missing(self._root, digest)
        return os.path.join(self._root, layout.BLOBS, layout.blob_path(digest, executable))


def _make_layout(root: str) -> None:
    for name in layout.DIRECTORIES:
        os.makedirs(os.path.join(root, name), exist_ok=True)


def _plain(key: str) -> str:
    """The key, or a digest of it where it could not be a file name."""
    return key if _PLAIN_KEY.fullmatch(key) else blake3_hex(key.encode())
