"""Leases: the trees that a running process uses. The collector keeps them until the process ends.

A process leases every tree that it finds valid or adds. The ids are lines in `tmp/<process>/using`. The process adds
them under the shared publish lock, in which it also looks for the rows. A collector removes rows under the exclusive
lock. So the collector sees the lease, or the process finds no row. The lease is removed with the process's directory.
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
    """The leases of one process. Callers may assume that a valid tree stays valid while the process lives."""

    def __init__(self, root: str, database: Database, process: ProcessScratch) -> None:
        self._tmp = os.path.join(root, layout.TMP)
        self._database = database
        self._process = process
        self._held: set[str] = set()
        self._touched: set[str] = set()

    def valid(self, trees: Iterable[TreeId]) -> set[TreeId]:
        """The trees that are registered, found in one query. The process leases them."""
        wanted = set(trees)
        if wanted <= self._held or not self._process.leasing:
            return self._registered(wanted)
        with scratch.locked(self._tmp, layout.PUBLISH_LOCK, fcntl.LOCK_SH):
            present = self._registered(wanted)
            self.hold(present)
        return present

    def hold(self, trees: Iterable[str]) -> None:
        """Lease trees that are valid, or will be when the caller releases the publish lock."""
        new = set(trees) - self._held
        if new:
            self._process.note_use(new)
            self._held |= new

    def touch(self, tree: TreeId) -> None:
        """Record that the tree is used now. Writes at most once per tree and USE_GRANULARITY."""
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
    """The leases of all processes. Leases only grow, so each read continues where the last one ended."""

    def __init__(self, root: str) -> None:
        self._tmp = os.path.join(root, layout.TMP)
        self._read: dict[str, tuple[int, set[TreeId]]] = {}

    def held(self) -> set[TreeId]:
        """All leased trees. The answer is certain only while the caller holds the publish lock exclusively."""
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
        # A process may be appending: an incomplete last line is read next time.
        whole = len(data) // _LINE * _LINE
        trees.update(_trees(data[:whole]))
        return offset + whole, trees


def _trees(data: bytes) -> Iterator[TreeId]:
    for line in data.decode("ascii", "replace").split("\n"):
        if is_hex_digest(line):
            yield TreeId(line)
