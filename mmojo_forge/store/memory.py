"""A store in memory, for tests: the same protocol, with nothing to clean up or recover.

Objects, scratch space and logs are files nevertheless, because executors read them. They lie below the directory that
the constructor gets. The build trace is the local store's, with an in-memory database.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.digest import BlobDigest, Sha256, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry, check_name
from mmojo_forge.store import layout, objects
from mmojo_forge.store.add import scan
from mmojo_forge.store.add.add import check_content, open_source
from mmojo_forge.store.db.database import Database
from mmojo_forge.store.db.traces import Traces
from mmojo_forge.store.protocol import Fetch, FileDigests, GcRoot, OnWait, OpenBlob, StoreError
from mmojo_forge.store.scratch import remove_tree


class MemoryStore:
    """A store whose trees live as long as the object. Locks, traces and checkouts are thread-safe, which tests need."""

    name = "memory"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blobs: dict[BlobDigest, bytes] = {}
        self._trees: dict[TreeId, Tree] = {}
        self._database = Database(":memory:")
        self._traces = Traces(self._database)
        self._roots: dict[Path, tuple[TreeId, Path]] = {}
        self._held: set[str] = set()
        self._changed = threading.Condition()
        self._adding = threading.Lock()
        for part in (layout.OBJECTS, layout.TMP, layout.LOGS):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self.lookup = self._traces.lookup
        self.conflicts = self._traces.conflicts
        self.signed = self._traces.signed
        self.forget_signed_only_by = self._traces.forget_signed_only_by
        self.record = self._traces.record
        self.lookup_resolved = self._traces.lookup_resolved
        self.record_resolved = self._traces.record_resolved
        self.history = self._traces.history
        self.earlier = self._traces.earlier

    @property
    def path(self) -> Path:
        """The directory for objects, scratch space and logs."""
        return self._directory

    def has_tree(self, tree: TreeId) -> bool:
        """Whether the tree was added."""
        return tree in self._trees

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Which of the trees were added."""
        return {tree for tree in trees if tree in self._trees}

    def read_tree(self, tree: TreeId) -> Tree:
        """The tree; raises StoreError (`tree-missing`)."""
        try:
            return self._trees[tree]
        except KeyError as error:
            raise StoreError(f"read tree {tree}: not in memory", reason="tree-missing") from error

    def open_blob(self, digest: BlobDigest, *, executable: bool = False) -> BinaryIO:
        """The content; raises StoreError (`blob-missing`)."""
        try:
            return io.BytesIO(self._blobs[digest])
        except KeyError as error:
            raise objects.missing("memory", digest) from error

    def read_part(self, entry: TreeEntry, offset: int, count: int) -> bytes:
        """Up to `count` bytes of a file's content; none if the file is missing."""
        return self._blobs.get(cast(BlobDigest, entry.digest), b"")[offset : offset + count]

    def file_digests(self, digests: Iterable[BlobDigest | Sha256]) -> list[FileDigests]:
        """Both digests of each file in the store whose BLAKE3 or SHA-256 is among `digests`."""
        wanted = set(digests)
        files = (
            FileDigests(digest, Sha256(hashlib.sha256(data).hexdigest()), len(data))
            for digest, data in self._blobs.items()
        )
        return [file for file in files if not wanted.isdisjoint((file.blake3, file.sha256))]

    def add_path(
        self, path: Path, *, move: bool = False, limits: Limits | None = None, ignored: frozenset[str] = frozenset()
    ) -> Tree:
        """The tree of the files at `path`."""
        if not os.path.lexists(path):
            raise StoreError(f"add {path}: no such file or directory", reason="path-missing")
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            scan.check_file(status, str(path), "")
            return self.add_file(path, executable=bool(status.st_mode & stat.S_IXUSR), move=move)
        root_fd = os.open(path, scan.DIRECTORY_FLAGS)
        try:
            found = scan.scan(root_fd, str(path), limits or Limits(), ignored)
            entries = [*found.entries, *(self._take(file, path) for file in found.files)]
        finally:
            os.close(root_fd)
        if move:
            shutil.rmtree(path)
        return self._keep(Tree.of(entries))

    def add_file(
        self,
        source: Path | BinaryIO,
        *,
        digest: BlobDigest | None = None,
        size: int | None = None,
        executable: bool = False,
        move: bool = False,
    ) -> Tree:
        """The tree of one file; raises StoreError (`blob-mismatch`) unless it has the given digest and size."""
        if isinstance(source, Path):
            with open_source(source) as file:
                data = file.read()
        else:
            data = source.read()
        got = BlobDigest(blake3_hex(data))
        check_content(str(source), got, len(data), digest, size)
        self._blobs[got] = data
        if move and isinstance(source, Path):
            source.unlink()
        return self._keep(Tree.of_file(got, len(data), executable=executable))

    def add_tree(self, tree: Tree, open_blob: OpenBlob) -> None:
        """Add a tree and read its content from another store."""
        taken = {}
        for entry in tree.entries:
            if entry.digest is not None and entry.digest not in self._blobs:
                with open_blob(entry) as file:
                    data = file.read(entry.size + 1)
                check_content(entry.path, BlobDigest(blake3_hex(data)), len(data), entry.digest, entry.size)
                taken[entry.digest] = data
        self._blobs.update(taken)
        self._keep(tree)

    def receive(self, tree: Tree, fetch: Fetch) -> None:
        """Add a tree that `fetch` brings in pieces; raises StoreError (`blob-missing`) if it leaves content out."""
        arrival = _Arrival({file.digest for file in tree.files() if file.digest} - self._blobs.keys())
        fetch(arrival, self._directory / layout.TMP / f"receive-{tree.id}")
        if arrival.missing:
            raise StoreError("receive tree: the fetch left content out", reason="blob-missing")
        self._blobs.update(arrival.taken)
        self._keep(tree)

    def object_path(self, tree: TreeId, name: str) -> Path:
        """The path of the object, whether or not it exists."""
        check_name(name)
        if len(name.encode()) > layout.MAX_OBJECT_NAME or not is_hex_digest(tree):
            raise StoreError(f"check out {name}: not a valid object name", reason="object-bad-name")
        return self._directory / layout.OBJECTS / layout.object_name(tree, name)

    def checkout(self, tree: TreeId, name: str) -> Path:
        """The path of the object, made if missing."""
        path = self.object_path(tree, name)
        with self._adding:
            if not os.path.lexists(path):
                for entry in self.read_tree(tree).entries:
                    self._put(entry, path / entry.path if entry.path else path)
        return path

    def lock(self, key: str, *, on_wait: OnWait | None = None) -> _KeyLock:
        """Holds the key's lock, against threads."""
        return _KeyLock(self._held, self._changed, key, on_wait)

    @contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """An empty directory, removed afterwards."""
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=self._directory / layout.TMP))
        try:
            yield path
        finally:
            remove_tree(str(path.parent), path.name)

    def log_path(self, key: str) -> Path:
        """The path for the zstd-compressed log of a build."""
        return self._directory / layout.LOGS / f"{key}.zst"

    @contextmanager
    def open_log(self, key: str) -> Iterator[BinaryIO]:
        """The text of a log; raises StoreError (`log-missing`)."""
        try:
            file = self.log_path(key).open("rb")
        except FileNotFoundError as error:
            raise StoreError(f"read log {key}: the store has no such log", reason="log-missing") from error
        with file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            yield cast(BinaryIO, reader)

    def add_root(self, link: Path, tree: TreeId, name: str) -> Path:
        """The checked-out object, with the symlink `link` pointing to it and registered as a root."""
        target = self.checkout(tree, name)
        link.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(link) and not link.is_symlink():
            raise StoreError(f"link {link}: the path exists and is not a symlink", reason="root-not-a-link")
        link.unlink(missing_ok=True)
        link.symlink_to(target.absolute())
        self._roots[link.absolute()] = (tree, target)
        return target

    def roots(self) -> Iterator[GcRoot]:
        """The links that were added."""
        for link, (tree, target) in sorted(self._roots.items()):
            points = link.is_symlink() and link.readlink() == target.absolute()
            yield GcRoot(link, target if points else None, tree if points else None)

    def close(self) -> None:
        """Close the database, which drops the traces."""
        self._database.close()

    def _keep(self, tree: Tree) -> Tree:
        self._trees[tree.id] = tree
        return tree

    def _take(self, file: scan.ScannedFile, top: Path) -> TreeEntry:
        try:
            data = (top / file.path).read_bytes()
        except PermissionError as error:
            raise scan.unreadable(str(top), file.path) from error
        digest = BlobDigest(blake3_hex(data))
        self._blobs[digest] = data
        kind = EntryKind.EXECUTABLE if file.executable else EntryKind.FILE
        return TreeEntry(file.path, kind, digest, len(data))

    def _put(self, entry: TreeEntry, path: Path) -> None:
        if entry.kind is EntryKind.DIRECTORY:
            path.mkdir()
        elif entry.target is not None:
            path.symlink_to(entry.target)
        elif entry.digest is not None:
            path.write_bytes(self._blobs[entry.digest])
            path.chmod(0o555 if entry.kind is EntryKind.EXECUTABLE else 0o444)


class _Arrival:
    """The Sink of `receive`."""

    def __init__(self, missing: set[BlobDigest]) -> None:
        self.missing = missing
        self.taken: dict[BlobDigest, bytes] = {}

    def lacking(self, files: Sequence[TreeEntry]) -> set[BlobDigest]:
        return {file.digest for file in files if file.digest in self.missing}

    def take_small(self, files: Sequence[tuple[TreeEntry, bytes]]) -> None:
        for file, content in files:
            assert file.digest is not None
            self.missing.remove(file.digest)
            self.taken[file.digest] = content

    def take_file(self, file: TreeEntry, path: Path) -> None:
        self.take_small([(file, path.read_bytes())])


class _KeyLock:
    """Holds one key, against the threads that share `held`."""

    def __init__(self, held: set[str], changed: threading.Condition, key: str, on_wait: OnWait | None) -> None:
        self._held = held
        self._changed = changed
        self._key = key
        self._on_wait = on_wait

    def __enter__(self) -> None:
        waited = 0.0
        with self._changed:
            while self._key in self._held:
                if self._on_wait is not None:
                    self._on_wait(waited)
                self._changed.wait(0.02)
                waited += 0.02
            self._held.add(self._key)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._held.remove(self._key)
            self._changed.notify_all()
