"""The store on this machine: blobs, trees, objects, traces, roots, logs and locks in one directory.

`LocalStore` is a façade. It owns the directory, the database connection and the process's scratch space, and names the
failed operation in errors; the other modules of this package do the work. It has many methods because it implements
the whole `Store` protocol.
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
from typing import TYPE_CHECKING, BinaryIO, Self, cast

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
from mmojo_forge.store.noop_lookup import boot_id
from mmojo_forge.store.objects import open_verified, read_part
from mmojo_forge.store.protocol import Fetch, FileDigests, GcRoot, Observation, OnWait, OpenBlob, Recorded, StoreError

_LIBC = ctypes.CDLL(None, use_errno=True)

if TYPE_CHECKING:
    from mmojo_forge.store.maintain.maintenance import Maintenance
    from mmojo_forge.store.maintain.repair import RepairResult
    from mmojo_forge.store.maintain.verify import OnProgress, VerifyReport


def sync_file_system(path: str) -> None:
    """Return when all data of the file system that holds `path` is on the disk; raises OSError."""
    # One syncfs(2) replaces an fsync(2) for each of thousands of files. Python has no wrapper for it.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(fd)


_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


class LocalStore:
    """An open store. Opening it removes what dead processes left behind; every method is thread-safe."""

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
        self._maintenance: Maintenance | None = None

    @classmethod
    def open(cls, path: Path, *, shuffle: int | None = None, leasing: bool = True) -> Self:
        """The store at `path`, made if missing. Raises StoreUnusableError (`store-schema`, `store-permission`).

        `shuffle` seeds the order in which files are checked out; `forge check` varies it. A server that runs for days
        sets `leasing` to false: it keeps no trees alive, and must cope when a tree disappears.
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
        """The directory of the store."""
        return Path(self._root)

    @property
    def maintenance(self) -> Maintenance:
        """Collecting, counting, verifying, repairing: work on the store as a whole."""
        if self._maintenance is None:
            # No build needs it, and it takes as long to import as the rest of the store.
            from mmojo_forge.store.maintain.maintenance import Maintenance

            self._maintenance = Maintenance(self._root, self._database, self._scratch)
        return self._maintenance

    def close(self, *, durable: bool = True) -> None:
        """Make everything durable that was added, remove the process's scratch directory, close the database.

        Without `durable`, forge checks the content added since the last `sync` again after a power cut, and drops what
        is damaged.
        """
        try:
            if self._added and durable:
                self.sync()
        finally:
            self._scratch.close()
            self._database.close()

    def sync(self) -> None:
        """Return when everything that any process has registered so far would survive a power cut."""
        with reported("sync store", self._root):
            # Rows that other processes write from here on belong to the new epoch, which this sync does not cover.
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
        """The trees that are registered. They are not collected while this process lives."""
        with reported("read store", self._root):
            return self._leases.valid(trees)

    def read_tree(self, tree: TreeId) -> Tree:
        """The manifest; raises StoreError (`tree-missing`, `tree-corrupt`)."""
        return Tree.parse(self._manifest(tree))

    def open_blob(self, digest: BlobDigest, *, executable: bool = False) -> BinaryIO:
        """The content, verified when it is read to its end; raises StoreError (`blob-missing`, `blob-corrupt`)."""
        return open_verified(self._root, self._blob(digest, executable), digest)

    def read_part(self, entry: TreeEntry, offset: int, count: int) -> bytes:
        """Up to `count` bytes of a file's content, unverified; none if the file is missing."""
        if entry.digest is None:
            return b""
        return read_part(self._blob(entry.digest, entry.kind is EntryKind.EXECUTABLE), offset, count)

    # Trees: writing

    def file_digests(self, digests: Iterable[BlobDigest | Sha256]) -> list[FileDigests]:
        """Both digests of each stored file whose BLAKE3 or SHA-256 is among `digests`."""
        wanted = json_list(digests)
        # No index on SHA-256: queries are rare and scan the table once, but an index would slow down every addition.
        rows = self._database.query(
            "SELECT DISTINCT digest, sha256, size FROM blobs WHERE digest IN (SELECT value FROM json_each(?)) "
            "OR sha256 IN (SELECT value FROM json_each(?))",
            (wanted, wanted),
        )
        return [FileDigests(BlobDigest(digest), Sha256(sha256), size) for digest, sha256, size in rows]

    def add_path(
        self, path: Path, *, move: bool = False, limits: Limits | None = None, ignored: frozenset[str] = frozenset()
    ) -> Tree:
        """The tree of the files at `path`, which no process may be changing."""
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
        """The tree of one file, verified while it is read; `move` removes `source` afterwards."""
        with self._adding(f"add {source if isinstance(source, Path) else 'file'}", needed=size):
            if not isinstance(source, Path):
                return self._intake.add_stream(source.read, "file", digest=digest, size=size, executable=executable)
            with open_source(source) as file:
                tree = self._intake.add_stream(file.read, str(source), digest=digest, size=size, executable=executable)
            if move:
                source.unlink()
            return tree

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Add a tree and read its content from another store."""
        with self._adding(f"add tree {tree.id}", needed=tree.size):
            self._intake.add_tree(tree, open_blob)

    def receive(self, tree: Tree, fetch: Fetch) -> None:
        """Add a tree that `fetch` brings in pieces; if it fails, the pieces stay in downloads/."""
        with self._adding(f"receive tree {tree.id}", needed=tree.size):
            self._intake.receive(tree, fetch, Path(self._root, layout.DOWNLOADS, tree.id))

    def import_bundle(self, path: Path, *, on_progress: OnProgress | None = None) -> Imported:
        """What the import added: everything that the bundle holds. Raises BundleError and adds nothing on any fault."""
        with self._adding(f"import {path}"):
            with self._intake.batch() as batch:
                arrived = read_bundle(path, batch, self.path, on_progress)
                batch.publish(arrived.trees)
            answers = Counter(self._traces.record(trace) for trace in arrived.traces)
        return Imported(arrived.contents, answers[Recorded.NEW], answers[Recorded.CONFLICT])

    # Objects

    def checkout(self, tree: TreeId, name: str) -> Path:
        """The path of the read-only object, made if missing."""
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
        """The path of the object, whether or not it exists."""
        check_name(name)
        if len(name.encode()) > layout.MAX_OBJECT_NAME or not is_hex_digest(tree):
            raise StoreError(f"check out {name}: not a valid object name", reason="object-bad-name")
        return Path(self._root, layout.OBJECTS, layout.object_name(tree, name))

    # Traces

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        """The traces that the store has for the keys."""
        with reported("look up traces", self._root):
            return self._traces.lookup(keys)

    def signed(self, trace: Trace) -> Trace:
        """The trace with every signature that the store has for the same claim."""
        with reported("look up signatures", self._root):
            return self._traces.signed(trace)

    def forget_signed_only_by(self, keys: Sequence[str]) -> int:
        """Delete the traces that only these public keys (base64) signed; the number of traces deleted."""
        with reported("forget traces", self._root):
            return self._traces.forget_signed_only_by(keys)

    def conflicts(self, key: ActionKey) -> list[Trace]:
        """The traces that came after the first one for the key and claim other outputs."""
        with reported("look up traces", self._root):
            return self._traces.conflicts(key)

    def record(self, trace: Trace) -> Recorded:
        """Record the trace, unless the key has one already."""
        with self._adding(f"record {trace.name}"):
            return self._traces.record(trace)

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        """The trees, by output, that forge realised the derivations to before."""
        with reported("look up derivations", self._root):
            return self._traces.lookup_resolved(derivations)

    def record_resolved(self, resolved: Mapping[DerivationId, Mapping[str, TreeId]]) -> None:
        """Record the trees that derivations were realised to."""
        with self._adding("record derivations"):
            self._traces.record_resolved(resolved)

    def history(self, names: Iterable[str]) -> dict[str, Observation]:
        """The time and memory of past builds, for those of the names that were built before."""
        with reported("look up history", self._root):
            return self._traces.history(names)

    def earlier(self, name: str, output: str) -> list[TreeId]:
        """The last few trees of one output, for builds of this name in any version, newest first."""
        with reported("look up traces", self._root):
            return self._traces.earlier(name, output)

    # Roots, logs, locks, scratch space

    def add_root(self, link: Path, tree: TreeId, name: str) -> Path:
        """The checked-out object, with the symlink `link` pointing to it. The link keeps the object alive."""
        target = self.checkout(tree, name)
        with reported(f"link {link}", str(link.parent)):
            if not noop_lookup.has_root(self._root, str(link), str(target)):
                roots.add(self._root, str(link), str(target), self._scratch)
        return target

    def roots(self) -> Iterator[GcRoot]:
        """All registered links: those that keep objects alive, and those that are gone."""
        with reported("list roots", self._root):
            return roots.listed(self._root)

    def log_path(self, key: str) -> Path:
        """The path for the zstd-compressed log of a build; its folder exists."""
        path = Path(self._root, layout.LOGS, layout.log_path(_plain(key)))
        with reported("make log", self._root):
            path.parent.mkdir(exist_ok=True)
        return path

    @contextmanager
    def open_log(self, key: str) -> Iterator[BinaryIO]:
        """The text of a log, even of a truncated one; raises StoreError (`log-missing`)."""
        try:
            file = self.log_path(key).open("rb")
        except FileNotFoundError as error:
            raise StoreError(f"read log {key}: the store has no such log", reason="log-missing") from error
        with file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            yield cast(BinaryIO, reader)

    def lock(self, key: str, *, on_wait: OnWait | None = None) -> AbstractContextManager[None]:
        """Holds the key's lock, against threads and processes."""
        return locks.held(os.path.join(self._root, layout.LOCKS), key, on_wait)

    @contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """An empty directory on the store's file system, removed afterwards with all its content."""
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
        """A report of everything in the store that does not match its rows; changes nothing."""
        return self.maintenance.verify(check_content=check_content, on_progress=on_progress)

    def repair(self, *, on_progress: OnProgress | None = None, on_wait: OnWait | None = None) -> RepairResult:
        """What the repair did: it restores damage from intact copies in the store, and invalidates the rest."""
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
    """The key, or a digest of it if the key cannot be a file name."""
    return key if _PLAIN_KEY.fullmatch(key) else blake3_hex(key.encode())
