"""Verifies that a store matches its rows: content, manifests, objects and traces, with no stray files.

    1. under the publish lock, for moments: list the files, read the rows, compare the two
    2. each blob against its digest, on all cores, largest first
    3. each manifest against its id and the blobs; each object against its manifest; each trace against its key

Verifying changes nothing. Other processes may work meanwhile: trees that they add or remove give no findings.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store import layout, objects, scratch
from mmojo_forge.store.add.batch import Blob, blobs_of
from mmojo_forge.store.db.database import Database

_BUFFER = 1 << 20
_GROUP = 64

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are checked so far, and the bytes in all."""


@dataclass(frozen=True, slots=True)
class VerifyFinding:
    """One fault: its reason (`blob-corrupt`, `tree-missing`, …) and the path in the store."""

    reason: str
    path: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The numbers of things checked, their content in bytes, and the faults found."""

    blobs: int
    trees: int
    objects: int
    size: int
    findings: tuple[VerifyFinding, ...]

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings


def verify(
    root: str, database: Database, *, check_content: bool = True, on_progress: OnProgress | None = None
) -> VerifyReport:
    """The report on the store at `root`. Without `check_content`, checks only that blobs exist with the right size."""
    # quick_check, not integrity_check: it skips the slow comparison of indexes with their tables.
    quick_check = database.query("PRAGMA quick_check(20)")
    findings = [VerifyFinding("database-corrupt", layout.DATABASE) for row in quick_check if row[0] != "ok"]
    with scratch.locked(os.path.join(root, layout.TMP), layout.PUBLISH_LOCK, fcntl.LOCK_EX):
        named: dict[str, list[str]] = {}
        for tree, name in objects.list_objects(root):
            named.setdefault(tree, []).append(name)
        blobs = database.query("SELECT digest, executable, size FROM blobs")
        sizes = {Blob(digest, bool(executable)): size for digest, executable, size in blobs}
        trees = {TreeId(row[0]) for row in database.query("SELECT id FROM trees")}
        findings.extend(_compare(root, sizes, trees))
    bad = _BlobCheck(root, sizes, check_content, on_progress).run()
    findings.extend(bad.values())
    objects_seen = sum(len(names) for names in named.values())
    checker = _TreeCheck(root, sizes, bad)
    for tree in sorted(trees):
        findings.extend(checker.check(tree, named.pop(tree, [])))
    findings.extend(
        VerifyFinding("object-stray", f"{layout.OBJECTS}/{name}") for names in named.values() for name in names
    )
    findings.extend(_traces(database))
    # Both _compare and _BlobCheck find a missing blob; report it once.
    return VerifyReport(len(sizes), len(trees), objects_seen, sum(sizes.values()), tuple(dict.fromkeys(findings)))


def _compare(root: str, sizes: dict[Blob, int], trees: set[TreeId]) -> Iterator[VerifyFinding]:
    """Findings for files without a row and rows without a file."""
    expected = {layout.blob_path(*blob) for blob in sizes}
    found = set()
    for shard in os.listdir(os.path.join(root, layout.BLOBS)):
        try:
            found |= {f"{shard}/{name}" for name in os.listdir(os.path.join(root, layout.BLOBS, shard))}
        except NotADirectoryError:
            found.add(shard)
    yield from (VerifyFinding("blob-missing", f"{layout.BLOBS}/{path}") for path in sorted(expected - found))
    yield from (VerifyFinding("blob-stray", f"{layout.BLOBS}/{path}") for path in sorted(found - expected))
    manifests = set(os.listdir(os.path.join(root, layout.TREES)))
    yield from (VerifyFinding("tree-missing", f"{layout.TREES}/{name}") for name in sorted(trees - manifests))
    yield from (VerifyFinding("tree-stray", f"{layout.TREES}/{name}") for name in sorted(manifests - trees))


class _BlobCheck:
    """Reads all blobs on all cores."""

    def __init__(self, root: str, sizes: dict[Blob, int], check_content: bool, on_progress: OnProgress | None) -> None:
        self._fd = os.open(os.path.join(root, layout.BLOBS), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sizes = sizes
        self._check_content = check_content
        self._on_progress = on_progress
        self._total = sum(sizes.values())
        self._done = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    def run(self) -> dict[Blob, VerifyFinding]:
        """The findings by blob."""
        blobs = sorted(self._sizes, key=lambda blob: -self._sizes[blob])
        large = [[blob] for blob in blobs if self._sizes[blob] > _BUFFER]
        small = blobs[len(large) :]
        groups = large + [small[start : start + _GROUP] for start in range(0, len(small), _GROUP)]
        try:
            with ThreadPoolExecutor(os.cpu_count() or 1, "forge-verify") as pool:
                return {blob: finding for found in pool.map(self._check, groups) for blob, finding in found}
        finally:
            os.close(self._fd)

    def _check(self, group: Sequence[Blob]) -> list[tuple[Blob, VerifyFinding]]:
        found = []
        for blob in group:
            reason = self._reason(blob)
            if reason is not None:
                found.append((blob, VerifyFinding(reason, f"{layout.BLOBS}/{layout.blob_path(*blob)}")))
        self._report(sum(self._sizes[blob] for blob in group))
        return found

    def _reason(self, blob: Blob) -> str | None:
        try:
            fd = os.open(layout.blob_path(*blob), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return "blob-missing"
        except OSError:
            return "blob-unreadable"
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != self._sizes[blob]:
                return "blob-corrupt"
            if stat.S_IMODE(status.st_mode) != (0o555 if blob.executable else 0o444):
                return "blob-mode"
            if self._check_content and self._digest(fd, status.st_size) != blob.digest:
                return "blob-corrupt"
        except OSError:
            return "blob-unreadable"
        finally:
            os.close(fd)
        return None

    def _digest(self, fd: int, size: int) -> str:
        if size < _BUFFER:
            return blake3(os.read(fd, size + 1)).hexdigest()
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(_BUFFER))
        hasher = blake3()
        while count := os.readv(fd, [buffer]):
            hasher.update(buffer[:count])
        return hasher.hexdigest()

    def _report(self, size: int) -> None:
        if self._on_progress is not None:
            with self._lock:
                self._done += size
                self._on_progress(self._done, self._total)


class _TreeCheck:
    """Compares manifests with blobs, and objects with manifests.

    A file in an object that is a hard link to the blob has the blob's finding, so its content is not read again.
    """

    def __init__(self, root: str, sizes: dict[Blob, int], bad: dict[Blob, VerifyFinding]) -> None:
        self._root = root
        self._sizes = sizes
        self._bad = bad

    def check(self, tree: TreeId, names: list[str]) -> Iterator[VerifyFinding]:
        """Findings for one tree and its objects."""
        path = f"{layout.TREES}/{tree}"
        try:
            parsed = Tree.parse(objects.read_manifest(self._root, tree))
        except ForgeError as error:
            yield VerifyFinding("tree-missing" if error.reason == "tree-missing" else "tree-corrupt", path)
            return
        if any(self._sizes.get(blob) != size for blob, size in blobs_of(parsed).items()):
            yield VerifyFinding("tree-incomplete", path)
        for name in names:
            entries = {entry.path: entry for entry in parsed.entries}
            altered = self._altered(f"{layout.OBJECTS}/{name}", entries)
            yield from (VerifyFinding("object-altered", altered_path) for altered_path in altered)

    def _altered(self, top: str, entries: dict[str, TreeEntry]) -> Iterator[str]:
        pending = [""]
        while pending:
            path = pending.pop()
            shown = f"{top}/{path}" if path else top
            entry = entries.pop(path, None)
            place = os.path.join(self._root, shown)
            if entry is None or not self._matches(place, entry):
                yield shown
            elif entry.kind is EntryKind.DIRECTORY:
                pending.extend(f"{path}/{name}" if path else name for name in os.listdir(place))
        yield from (f"{top}/{path}" for path in entries)

    def _matches(self, place: str, entry: TreeEntry) -> bool:
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return False
        if entry.kind is EntryKind.DIRECTORY:
            return stat.S_ISDIR(status.st_mode)
        if entry.kind is EntryKind.SYMLINK:
            return stat.S_ISLNK(status.st_mode) and os.readlink(place) == entry.target
        assert entry.digest is not None
        blob = Blob(entry.digest, entry.kind is EntryKind.EXECUTABLE)
        try:
            original = os.lstat(os.path.join(self._root, layout.BLOBS, layout.blob_path(*blob)))
        except FileNotFoundError:
            original = None
        if original is not None and (original.st_dev, original.st_ino) == (status.st_dev, status.st_ino):
            return blob not in self._bad
        return _is_copy(place, status, blob, entry.size)


def _is_copy(place: str, status: os.stat_result, blob: Blob, size: int) -> bool:
    """Whether a file that is not a link to the blob has its content.

    Such files exist if the blob ran out of links, or if two processes added it at the same time.
    """
    mode = stat.S_IFREG | (0o555 if blob.executable else 0o444)
    if status.st_mode != mode or status.st_size != size:
        return False
    hasher = blake3()
    with open(place, "rb", buffering=0) as file:
        while chunk := file.read(_BUFFER):
            hasher.update(chunk)
    return hasher.hexdigest() == blob.digest


def _traces(database: Database) -> Iterator[VerifyFinding]:
    """Findings for traces whose preimage does not hash to their key."""
    last = ""
    while rows := database.query("SELECT key, preimage FROM traces WHERE key > ? ORDER BY key LIMIT 1000", (last,)):
        for key, preimage in rows:
            if not is_hex_digest(key) or blake3_hex(preimage) != key:
                yield VerifyFinding("trace-corrupt", f"{layout.DATABASE}#{key}")
        last = rows[-1][0]
