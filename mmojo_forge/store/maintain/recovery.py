"""Recovery from killed processes and power cuts, when a process opens the store, under `open.lock`.

A killed process leaves its directory in tmp/, and perhaps an intent that names files without a row. Recovery removes
both. A power cut may leave rows whose files did not reach the disk. Recovery checks the rows of epochs that were not
durable against the files, and drops the wrong ones. It also removes the objects of those trees, to be made again.

`Removal` removes trees and blobs so that a kill at any moment leaves a consistent store: intent, rows, files, empty
intent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from blake3 import blake3

from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.tree import EntryKind, TreeError
from mmojo_forge.store import layout, objects, scratch
from mmojo_forge.store.add.batch import Blob
from mmojo_forge.store.db.database import Database, json_list
from mmojo_forge.store.noop_lookup import boot_id
from mmojo_forge.store.protocol import StoreError
from mmojo_forge.store.scratch import ProcessScratch

_WHOLE = re.compile(rf"{layout.BLOBS}/[0-9a-f]{{2}}/[0-9a-f]{{62}}(\.x)?|{layout.TREES}/[0-9a-f]{{64}}")
_ATTEMPTS, _PAUSE = 10, 0.01
_OBJECTS = re.compile(rf"{layout.OBJECTS}/([0-9a-f]{{64}})")


def clean_up_dead(root: str, database: Database) -> None:
    """Roll back the intents of dead processes and remove their directories. Needs `open.lock`."""
    tmp = os.path.join(root, layout.TMP)
    for name in scratch.dead_processes(tmp):
        directory = os.path.join(tmp, name)
        for intent in os.listdir(directory):
            if intent.startswith(f"{layout.INTENT}-"):
                retract(root, database, os.path.join(directory, intent))
        _remove_directory(tmp, name)


def _remove_directory(tmp: str, name: str) -> None:
    """Remove the directory of a dead process, with a few attempts.

    A sandbox outlives its forge by a moment and may still write. If it does, the next process that opens the store
    removes the rest.
    """
    for _ in range(_ATTEMPTS):
        try:
            scratch.remove_tree(tmp, name)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        time.sleep(_PAUSE)


def retract(root: str, database: Database, intent: str) -> None:
    """Remove the files that an intent names and that have no row. Holds the publish lock, so nobody can add the row.

    A publisher's intent names blobs and manifests. A collector's also names the objects of trees, as `objects/<tree>`.
    """
    with open(intent, encoding="ascii") as file:
        paths = file.read().splitlines()
    if not paths:
        return
    with scratch.locked(os.path.join(root, layout.TMP), layout.PUBLISH_LOCK, fcntl.LOCK_EX):
        registered = registered_paths(database)
        for path in paths:
            # A truncated last line is ignored: the process died while it wrote the intent, before any rename.
            if path not in registered and _WHOLE.fullmatch(path):
                _remove(os.path.join(root, path))
        gone = {match[1] for path in paths if (match := _OBJECTS.fullmatch(path))}
        forget_objects(root, {TreeId(tree) for tree in gone if f"{layout.TREES}/{tree}" not in registered})


def registered_paths(database: Database) -> set[str]:
    """The paths of all blobs and trees that have a row."""
    blobs = database.query("SELECT digest, executable FROM blobs")
    paths = {f"{layout.BLOBS}/{layout.blob_path(digest, bool(executable))}" for digest, executable in blobs}
    return paths | {f"{layout.TREES}/{row[0]}" for row in database.query("SELECT id FROM trees")}


def check_after_power_cut(root: str, database: Database) -> None:
    """Check everything that was registered in epochs that no `sync` made durable before the machine restarted."""
    epochs = "SELECT id FROM epochs WHERE durable = 0 AND boot != ?"
    boot = boot_id()
    if not database.query(f"{epochs} LIMIT 1", (boot,)):
        return
    with scratch.locked(os.path.join(root, layout.TMP), layout.PUBLISH_LOCK, fcntl.LOCK_EX):
        blobs = database.query(f"SELECT digest, executable, size FROM blobs WHERE epoch IN ({epochs})", (boot,))
        lost_blobs = [Blob(row[0], bool(row[1])) for row in blobs if not _is_whole(root, *row)]
        # Rows of lost blobs go first, so that _is_complete finds the trees that need them.
        with database.transaction() as connection:
            connection.executemany("DELETE FROM blobs WHERE digest = ? AND executable = ?", lost_blobs)
        trees = [TreeId(row[0]) for row in database.query(f"SELECT id FROM trees WHERE epoch IN ({epochs})", (boot,))]
        lost_trees = [tree for tree in trees if not _is_complete(root, database, tree)]
        forget_objects(root, set(trees))
        for blob in lost_blobs:
            _remove(os.path.join(root, layout.BLOBS, layout.blob_path(*blob)))
        for tree in lost_trees:
            _remove(os.path.join(root, layout.TREES, tree))
        with database.transaction() as connection:
            connection.executemany("DELETE FROM trees WHERE id = ?", [(tree,) for tree in lost_trees])
            # The remaining rows are checked: give them this boot's id, so that the next open does not check them again.
            connection.execute("UPDATE epochs SET boot = ? WHERE durable = 0 AND boot != ?", (boot, boot))


def _is_whole(root: str, digest: str, executable: int, size: int) -> bool:
    hasher = blake3()
    try:
        with open(os.path.join(root, layout.BLOBS, layout.blob_path(digest, bool(executable))), "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    except OSError:
        return False
    return hasher.hexdigest() == digest


def _is_complete(root: str, database: Database, tree: TreeId) -> bool:
    try:
        rows = objects.rows_of(objects.read_manifest(root, tree))
    except (StoreError, TreeError, ValueError):
        return False
    needed = {
        Blob(row[2], row[1] == EntryKind.EXECUTABLE) for row in rows if row[1] in {EntryKind.FILE, EntryKind.EXECUTABLE}
    }
    present = database.query(
        "SELECT digest, executable FROM blobs WHERE digest IN (SELECT value FROM json_each(?))",
        (json_list({blob.digest for blob in needed}),),
    )
    return needed <= {Blob(row[0], bool(row[1])) for row in present}


def forget_objects(root: str, trees: set[TreeId]) -> None:
    """Remove the objects of these trees. The next checkout makes them again."""
    if not trees:
        return
    for tree, name in list(objects.list_objects(root)):
        if tree in trees:
            scratch.remove_tree(os.path.join(root, layout.OBJECTS), name)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        # Damage that put a directory in a blob's place; a repair that was killed left it.
        scratch.remove_tree(*os.path.split(path))


class Removal:
    """Removes trees and blobs from a store. Its methods need the publish lock, exclusively.

    Leave the context only after you release that lock: `__exit__` takes it to finish a removal that failed halfway.
    """

    def __init__(self, root: str, database: Database, process: ProcessScratch) -> None:
        self._root = root
        self._database = database
        self._process = process
        self._intent: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._intent is not None:
            retract(self._root, self._database, os.path.join(self._process.path, self._intent))
            self._process.drop_intent(self._intent)
            self._intent = None

    def remove(self, trees: Collection[TreeId], blobs: Sequence[Blob] = ()) -> None:
        """Remove trees with their objects, and the given blobs, which no remaining tree may have."""
        if not trees and not blobs:
            return
        files = [f"{layout.BLOBS}/{layout.blob_path(*blob)}" for blob in blobs]
        files += [f"{layout.TREES}/{tree}" for tree in trees]
        self._intent = self._process.note_intent([*files, *(f"{layout.OBJECTS}/{tree}" for tree in trees)])
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM trees WHERE id = ?", [(tree,) for tree in trees])
            connection.executemany("DELETE FROM blobs WHERE digest = ? AND executable = ?", blobs)
        for path in files:
            try:
                os.unlink(os.path.join(self._root, path))
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                # Damage put a directory in the file's place, and `repair` removes it.
                scratch.throw_away(self._root, self._process, path)
        if trees:
            self.remove_objects(set(trees))
        self._process.drop_intent(self._intent)
        self._intent = None

    def remove_objects(self, trees: Collection[TreeId]) -> None:
        """Remove the objects of trees. If a tree itself stays, the next checkout makes its object again."""
        for tree, name in list(objects.list_objects(self._root)):
            if tree in trees:
                scratch.throw_away(self._root, self._process, f"{layout.OBJECTS}/{name}")
