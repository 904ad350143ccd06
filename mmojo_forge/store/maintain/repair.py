"""Repairs a store from its own content: each finding of `verify` is restored, removed, or invalidated.

    1. look      take the findings of `verify`; find the trees that have the damaged blobs
    2. copy      copy each damaged blob and manifest from an intact place in the store; verify it while copying
    3. replace   under the publish lock: set the damaged file aside in damaged/, rename the verified copy into place
    4. forget    invalidate trees without an intact copy, rows first; they are made again when they are wanted
    5. remake    check out altered objects again; remove files without a row and traces that do not match their key

Repair verifies every replacement before it replaces anything. The store never serves damaged content again.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import BlobDigest, TreeId, is_hex_digest
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.store import layout, objects, scratch
from mmojo_forge.store.add.batch import Blob, blobs_of
from mmojo_forge.store.db.database import Database, current_epoch
from mmojo_forge.store.maintain.copy_recovery import Copy, CopyRecovery
from mmojo_forge.store.maintain.recovery import Removal
from mmojo_forge.store.maintain.usage import names_of_trees
from mmojo_forge.store.maintain.verify import VerifyFinding, VerifyReport
from mmojo_forge.store.scratch import ProcessScratch, write_all

_BLOB = re.compile(rf"{layout.BLOBS}/([0-9a-f]{{2}})/([0-9a-f]{{62}})(\.x)?")
_BAD_BLOB = frozenset({"blob-missing", "blob-corrupt", "blob-unreadable", "blob-mode"})
_BAD_TREE = frozenset({"tree-missing", "tree-corrupt"})


CheckOut = Callable[[TreeId, str], object]
"""Checks a tree out under a name."""


class RepairOutcome(StrEnum):
    """The outcome of the repair for one finding."""

    RESTORED = "restored"
    """An intact copy replaced it."""
    REMOVED = "removed"
    """It was a file without a row, or a trace that does not match its key."""
    INVALIDATED = "invalidated"
    """The store has no intact copy: it no longer serves the trees that need it."""
    STANDING = "standing"
    """Repair cannot fix it."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A tree that is not valid any more. `name` is for messages; `objects` are the names of its objects."""

    tree: TreeId
    name: str
    objects: tuple[str, ...]


@dataclass(slots=True)
class RepairResult:
    """The outcome of each finding, the trees that must be made again, and the paths of damaged files in damaged/."""

    outcomes: dict[VerifyFinding, RepairOutcome] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)

    def add(self, other: RepairResult) -> None:
        """Add the result of another pass."""
        self.outcomes.update(other.outcomes)
        self.lost.extend(other.lost)
        self.set_aside.extend(path for path in other.set_aside if path not in self.set_aside)


class Repairer:
    """One repair. Needs the maintenance lock, exclusively; use once."""

    def __init__(self, root: str, database: Database, process: ProcessScratch, check_out: CheckOut) -> None:
        self._root = root
        self._tmp = os.path.join(root, layout.TMP)
        self._database = database
        self._process = process
        self._check_out = check_out
        self._salvage = CopyRecovery(root, process)
        self._mended = RepairResult()
        self._trees: dict[TreeId, Tree] = {}
        self._bad_trees: set[TreeId] = set()

    def mend(self, report: VerifyReport) -> RepairResult:
        """The result of repairing the findings of the report."""
        self._read_trees()
        self._restore_manifests()
        bad = self._bad_blobs(report)
        copies = {blob: copy for blob, holders in bad.items() if (copy := self._salvage.copy(blob, holders))}
        gone = [blob for blob in bad if blob not in copies]
        with (
            Removal(self._root, self._database, self._process) as removal,
            scratch.locked(self._tmp, layout.PUBLISH_LOCK, fcntl.LOCK_EX),
        ):
            # Read again under the lock: a tree added since may reuse a damaged blob.
            self._read_trees()
            holding = {tree.id for tree in self._trees.values() if not blobs_of(tree).keys().isdisjoint(gone)}
            lost = self._bad_trees | holding
            for blob, copy in copies.items():
                self._replace(blob, copy)
            self._forget(removal, lost, gone)
        for finding in report.findings:
            self._mended.outcomes[finding] = self._finish(finding, lost, copies)
        return self._mended

    def _read_trees(self) -> None:
        for (tree,) in self._database.query("SELECT id FROM trees"):
            if tree in self._trees or tree in self._bad_trees:
                continue
            try:
                self._trees[tree] = Tree.parse(objects.read_manifest(self._root, tree))
            except ForgeError:
                self._bad_trees.add(tree)

    def _restore_manifests(self) -> None:
        for tree in sorted(self._bad_trees):
            manifest = self._salvage.manifest(tree)
            if manifest is not None:
                name = self._write(manifest)
                place = os.path.join(self._root, layout.TREES, tree)
                if os.path.isdir(place) and not os.path.islink(place):
                    scratch.throw_away(self._root, self._process, f"{layout.TREES}/{tree}")
                os.replace(os.path.join(self._process.path, name), place)
                self._trees[tree] = Tree.parse(manifest)
                self._bad_trees.discard(tree)

    def _bad_blobs(self, report: VerifyReport) -> dict[Blob, list[tuple[TreeId, str]]]:
        """Damaged blobs, each with the trees that have it and its path in them."""
        rows = {
            Blob(digest, bool(executable)): size
            for digest, executable, size in self._database.query("SELECT digest, executable, size FROM blobs")
        }
        bad = {blob for finding in report.findings if finding.reason in _BAD_BLOB and (blob := _blob_at(finding.path))}
        for tree in self._trees.values():
            bad.update(blob for blob, size in blobs_of(tree).items() if rows.get(blob) != size)
        holders: dict[Blob, list[tuple[TreeId, str]]] = {blob: [] for blob in bad}
        for tree in self._trees.values():
            for entry in tree.files():
                blob = _blob_of(entry)
                if blob in bad:
                    holders[blob].append((tree.id, entry.path))
        return holders

    def _replace(self, blob: Blob, copy: Copy) -> None:
        """Replace the blob by the verified copy. Needs the publish lock, exclusively."""
        path = self._set_aside(blob)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(os.path.join(self._process.path, copy.name), path)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO blobs (digest, executable, size, sha256, epoch) VALUES (?, ?, ?, ?, ?)",
                (blob.digest, blob.executable, copy.size, copy.sha256, current_epoch(connection)),
            )

    def _set_aside(self, blob: Blob) -> str:
        """The path of the blob. Keeps the damaged file in damaged/, for users who want to inspect it."""
        shown = layout.blob_path(*blob)
        path = os.path.join(self._root, layout.BLOBS, shown)
        aside = os.path.join(self._root, layout.DAMAGED, shown.replace("/", ""))
        if not os.path.lexists(path):
            return path
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        scratch.throw_away(self._root, self._process, os.path.relpath(aside, self._root))
        if os.path.isdir(path) and not os.path.islink(path):
            os.rename(path, aside)
        else:
            # Link instead of rename, so that a file exists at the blob's path at all times.
            os.link(path, aside, follow_symlinks=False)
            # Blobs have modification time 1, and the collector removes old files from damaged/.
            os.utime(aside, follow_symlinks=False)
        self._mended.set_aside.append(os.path.relpath(aside, self._root))
        return path

    def _forget(self, removal: Removal, trees: set[TreeId], blobs: list[Blob]) -> None:
        """Invalidate trees, and blobs without an intact copy. Needs the publish lock, exclusively."""
        names = names_of_trees(self._root, self._database)
        called: dict[str, list[str]] = {}
        for tree, name in objects.list_objects(self._root):
            called.setdefault(tree, []).append(name.partition("-")[2])
        self._mended.lost = [Lost(tree, names.get(tree, ""), tuple(called.get(tree, ()))) for tree in sorted(trees)]
        for blob in blobs:
            self._set_aside(blob)
        removal.remove(trees, blobs)

    def _finish(self, finding: VerifyFinding, lost: set[TreeId], copies: Mapping[Blob, Copy]) -> RepairOutcome:
        """The outcome of a finding. Blobs and trees are repaired by now; this repairs objects, strays and traces."""
        if finding.reason in _BAD_BLOB:
            return RepairOutcome.RESTORED if _blob_at(finding.path) in copies else RepairOutcome.INVALIDATED
        name = finding.path.partition("/")[2]
        if finding.reason in _BAD_TREE or finding.reason == "tree-incomplete":
            return RepairOutcome.INVALIDATED if name in lost else RepairOutcome.RESTORED
        if finding.reason == "object-altered":
            return self._remake_object(name.partition("/")[0], lost)
        if finding.reason.endswith("-stray"):
            return self._remove_stray(finding.path, copies)
        if finding.reason == "trace-corrupt":
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM traces WHERE key = ?", (finding.path.partition("#")[2],))
            return RepairOutcome.REMOVED
        return RepairOutcome.STANDING

    def _remake_object(self, name: str, lost: set[TreeId]) -> RepairOutcome:
        tree, _, called = name.partition("-")
        if tree in lost:
            return RepairOutcome.INVALIDATED
        scratch.throw_away(self._root, self._process, f"{layout.OBJECTS}/{name}")
        self._check_out(TreeId(tree), called)
        return RepairOutcome.RESTORED

    def _remove_stray(self, path: str, copies: Mapping[Blob, Copy]) -> RepairOutcome:
        blob = _blob_at(path)
        if blob is not None and blob in copies:
            return RepairOutcome.RESTORED
        with scratch.locked(self._tmp, layout.PUBLISH_LOCK, fcntl.LOCK_EX):
            # Another process may have added the file's row since; then it is no stray.
            if not self._is_registered(path, blob):
                scratch.throw_away(self._root, self._process, path)
        return RepairOutcome.REMOVED

    def _is_registered(self, path: str, blob: Blob | None) -> bool:
        if blob is not None:
            question = "SELECT 1 FROM blobs WHERE digest = ? AND executable = ?"
            return bool(self._database.query(question, (blob.digest, blob.executable)))
        tree = path.partition("/")[2].partition("-")[0]
        is_tree = is_hex_digest(tree) and not path.startswith(f"{layout.BLOBS}/")
        return is_tree and bool(self._database.query("SELECT 1 FROM trees WHERE id = ?", (tree,)))

    def _write(self, data: bytes) -> str:
        name = self._process.new_name("manifest")
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=self._process.fd)
        try:
            write_all(fd, data)
            os.utime(fd, (layout.EPOCH, layout.EPOCH))
        finally:
            os.close(fd)
        return name


def _blob_at(path: str) -> Blob | None:
    match = _BLOB.fullmatch(path)
    return Blob(BlobDigest(match[1] + match[2]), match[3] is not None) if match else None


def _blob_of(entry: TreeEntry) -> Blob:
    assert entry.digest is not None
    return Blob(entry.digest, entry.kind is EntryKind.EXECUTABLE)
