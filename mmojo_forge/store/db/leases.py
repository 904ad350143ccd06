"""What a process uses: every tree that it was told is valid, or that it added, stays until the process ends.

The ids stand in `tmp/<process>/using`, one line each. They are added under the shared publish lock, together with the
look at the rows, so that a collector, which holds the lock exclusively while it removes rows, either sees the lease or
has removed the row before anybody was told of it. The directory goes with its process, and the lease with it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator

from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store import layout, scratch
from mmojo_forge.store.db.database import Database, json_list
from mmojo_forge.store.noop_lookup import USE_GRANULARITY
from mmojo_forge.store.scratch import ProcessScratch

_LINE = 65


class Leases:
    """The leases of one process. Callers may assume that what is valid stays so while the process lives."""

    def __init__(self, root: str, database: Database, process: ProcessScratch) -> None:
        self._tmp = os.path.join(root, layout.TMP)
        self._database = database
        self._process = process
        self._held: set[str] = set()
        self._touched: set[str] = set()

    def valid(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """Which of the trees are registered, in one question; from now on they stay."""
        wanted = set(trees)
        if wanted <= self._held or not self._process.leasing:
            return self._registered(wanted)
        with scratch.locked(self._tmp, layout.PUBLISH_LOCK, fcntl.LOCK_SH):
            present = self._registered(wanted)
            self.hold(present)
        return present

    def hold(self, trees: Iterable[str]) -> None:
        """Keep trees that are valid, or will be when the publish lock, which the caller holds, is released."""
        new = set(trees) - self._held
        if new:
            self._process.note_use(new)
            self._held |= new

    def touch(self, tree: TreeId) -> None:
        """Remember that the tree is used now; costs a write at most once in a while."""
        if tree in self._touched:
            return
        self._touched.add(tree)
        now = time.time()
        stale = (now, tree, now - USE_GRANULARITY)
        if self._database.query("SELECT 1 FROM trees WHERE id = ? AND used < ?", stale[1:]):
            with self._database.transaction() as connection:
                connection.execute("UPDATE trees SET used = ? WHERE id = ? AND used < ?", stale)

    def _registered(self, trees: set[TreeId]) -> set[TreeId]:
        rows = self._database.query(
            "SELECT id FROM trees WHERE id IN (SELECT value FROM json_each(?))", (json_list(trees),)
        )
        return {TreeId(row[0]) for row in rows}


class LeaseReader:
    """The leases of all processes, read on from where the last look ended: they only ever grow."""

    def __init__(self, root: str) -> None:
        self._tmp = os.path.join(root, layout.TMP)
        self._read: dict[str, tuple[int, set[TreeId]]] = {}

    def held(self) -> set[TreeId]:
        """All trees that are in use; for certain only under the publish lock, held exclusively."""
        processes = [name for name, _ in scratch.processes(self._tmp)]
        self._read = {name: self._look(name) for name in processes}
        return {tree for _, trees in self._read.values() for tree in trees}

    def _look(self, name: str) -> tuple[int, set[TreeId]]:
        offset, trees = self._read.get(name, (0, set()))
        try:
            with open(os.path.join(self._tmp, name, layout.USING), "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return offset, trees
        whole = len(data) // _LINE * _LINE
        trees.update(_trees(data[:whole]))
        return offset + whole, trees


def _trees(data: bytes) -> Iterator[TreeId]:
    for line in data.decode("ascii", "replace").split("\n"):
        if is_hex_digest(line):
            yield TreeId(line)
