"""The garbage collector: removes the trees that nothing keeps alive. README.md has the protocol; this is its order:

    1. choose    roots, leases and pins are alive; victims are the others last used before the cutoff, oldest first
    2. files     logs, partial downloads, failed builds, remains of checks, old evaluations (`stale_files`)
    3. trees     in small groups, each under the publish lock: look again at what is alive; intent; rows; files
    4. blobs     in the same way, those that no tree has any more
    5. the rest  entries of links that are gone; with `forget`, traces without outputs

A group takes a few milliseconds, and builds wait no longer than that. A kill between two steps leaves a consistent
store: rows go first, the intent names the files, and the next process that opens the store removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store import layout, scratch
from mmojo_forge.store.db.database import Database, json_list
from mmojo_forge.store.db.leases import LeaseReader
from mmojo_forge.store.db.traces import build_closure
from mmojo_forge.store.maintain import roots, stale_files
from mmojo_forge.store.maintain.recovery import Removal
from mmojo_forge.store.maintain.stale_files import StaleFile
from mmojo_forge.store.maintain.usage import StoreContents, StoredTree, bytes_by_kind, names_of_trees
from mmojo_forge.store.scratch import ProcessScratch

_T = TypeVar("_T")

# Builds cannot publish while a group is removed; these sizes keep that to a few milliseconds.
TREES_AT_ONCE = 32
BLOBS_AT_ONCE = 256

Pins = Callable[[], Iterable[TreeId]]
"""Gives the trees that the caller wants to keep. The collector calls it again before each step."""

OnStep = Callable[[int, int], None]
"""Called with the bytes that are freed so far, and the bytes in all."""


@dataclass(frozen=True, slots=True)
class GcPolicy:
    """The rules of a collection: what was last used more than `older_than` seconds ago may go.

    With `target_size`, collection stops when the store is below that many bytes. `keep_closure` keeps everything that
    the roots were built from. `forget` also drops the traces that have no output left.
    """

    older_than: float
    target_size: int | None = None
    keep_closure: bool = False
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Victim:
    """One tree to remove, with the bytes it frees when the victims before it are gone, and its time of last use."""

    tree: TreeId
    name: str
    size: int
    used: float


@dataclass(slots=True)
class GcResult:
    """The result of a collection, or of a dry run: trees, bytes freed by kind, and numbers of other things removed.

    `young` counts the bytes that no root keeps, but that were used too recently or since a running process started.
    """

    victims: list[Victim]
    freed: dict[str, int]
    size_before: int
    alive: int
    young: int
    blobs: int = 0
    traces: int = 0
    roots: int = 0

    @property
    def total(self) -> int:
        """The bytes freed in all."""
        return sum(self.freed.values())


class Collector:
    """One collection. Needs the maintenance lock; use once. `now` is in seconds since the epoch."""

    def __init__(
        self, root: str, database: Database, process: ProcessScratch, policy: GcPolicy, now: float, pins: Pins
    ) -> None:
        self._root = root
        self._tmp = os.path.join(root, layout.TMP)
        self._database = database
        self._process = process
        self._policy = policy
        self._pins = pins
        self._leases = LeaseReader(root)
        others = [since for name, since in scratch.processes(self._tmp) if name != process.name]
        self._alone = not others
        # A tree that was used since the oldest running process started stays, or that process might build it twice.
        self._cutoff = min([now - policy.older_than, *others])
        self._kept_by_roots: tuple[set[TreeId], set[TreeId]] = (set(), set())

    def run(self, *, dry: bool, on_step: OnStep | None = None) -> GcResult:
        """The result of collecting; with `dry`, of what a collection would do, with nothing removed."""
        kinds = bytes_by_kind(self._root, self._database)
        junk = stale_files.find(self._root, self._cutoff, downloads=self._alone)
        held = StoreContents.take(self._root, self._database)
        # A first look without the publish lock. The collector looks again under the lock before it removes anything.
        alive = self._alive()
        # tmp/ belongs to running processes; no collection can free it.
        size = sum(kinds.values()) - kinds[layout.TMP]
        victims, young = self._choose(held, alive, size - sum(file.size for file in junk))
        orphans = self._orphans(held, {victim.tree for victim in victims})
        logs = stale_files.find_logs(self._root, self._database, self._cutoff, {victim.tree for victim in victims})
        found = GcResult(victims, {}, size, len(alive), young, blobs=len(orphans))
        found.freed["blobs"] = held.size_of(orphans)
        for file in (*junk, *logs):
            found.freed[file.kind] = found.freed.get(file.kind, 0) + file.size
        if not dry:
            self._collect(held, found, [*junk, *logs], on_step)
        return found

    def _choose(self, held: StoreContents, alive: set[TreeId], size: int) -> tuple[list[Victim], int]:
        """The trees to remove, oldest first, and the bytes that dead trees keep because they are too young."""
        dead = sorted((tree for tree in held.trees.values() if tree.id not in alive), key=lambda tree: tree.used)
        old = [tree for tree in dead if tree.used < self._cutoff]
        holders = held.holders(held.trees.values())
        names = names_of_trees(self._root, self._database)
        size -= held.size_of(number for number in range(len(held.blobs)) if number not in holders)
        victims = []
        for tree in old:
            if self._policy.target_size is not None and size <= self._policy.target_size:
                break
            freed = held.size_of(_released(tree, holders))
            size -= freed
            victims.append(Victim(tree.id, names.get(tree.id, ""), freed, tree.used))
        rest = {number for tree in dead[len(victims) :] for number in _released(tree, holders)}
        return victims, held.size_of(rest)

    def _orphans(self, held: StoreContents, gone: set[TreeId]) -> list[int]:
        holders = held.holders(tree for tree in held.trees.values() if tree.id not in gone)
        return [number for number in range(len(held.blobs)) if number not in holders]

    def _collect(self, held: StoreContents, found: GcResult, junk: Sequence[StaleFile], on_step: OnStep | None) -> None:
        # Stale files first: the disk may be full, and removing them needs no space for rows or intents.
        stale_files.remove(self._root, self._process, junk)
        total = found.total
        with Removal(self._root, self._database, self._process) as removal:
            gone: set[TreeId] = set()
            for group in _groups(found.victims, TREES_AT_ONCE):
                gone |= self._remove_trees(removal, [victim.tree for victim in group])
            found.victims = [victim for victim in found.victims if victim.tree in gone]
            for tree in gone:
                del held.trees[tree]
            orphans = self._orphans(held, set())
            found.blobs, found.freed["blobs"] = 0, 0
            for numbers in _groups(orphans, BLOBS_AT_ONCE):
                removed = self._remove_blobs(removal, held, numbers)
                found.blobs += len(removed)
                found.freed["blobs"] += held.size_of(removed)
                if on_step is not None:
                    on_step(found.freed["blobs"], total)
        found.roots = roots.forget_dangling(self._root, self._cutoff)
        if self._policy.forget:
            found.traces = stale_files.forget_traces(self._database, self._cutoff)
        if on_step is not None:
            on_step(total, total)

    def _remove_trees(self, removal: Removal, trees: list[TreeId]) -> set[TreeId]:
        """The trees removed: those of the given trees that are still dead."""
        with self._publishing_stopped():
            alive = self._alive()
            rows = self._database.query(
                "SELECT id FROM trees WHERE used < ? AND id IN (SELECT value FROM json_each(?))",
                (self._cutoff, json_list(tree for tree in trees if tree not in alive)),
            )
            gone = {TreeId(row[0]) for row in rows}
            removal.remove(gone)
        return gone

    def _remove_blobs(self, removal: Removal, held: StoreContents, numbers: Sequence[int]) -> list[int]:
        """The blobs removed: those of the given blobs that no tree has started to use."""
        with self._publishing_stopped():
            held.add_new(self._root, self._database)
            gone = [number for number in numbers if number not in held.late]
            removal.remove((), [held.blobs[number] for number in gone])
        return gone

    def _alive(self) -> set[TreeId]:
        """The trees that must stay."""
        # Leases first: a process whose lease vanishes meanwhile has made its root links before that.
        held = self._leases.held()
        rooted = {root.tree for root in roots.listed(self._root, strict=True) if root.tree is not None}
        rooted.update(self._pins())
        if self._policy.keep_closure:
            if rooted != self._kept_by_roots[0]:
                self._kept_by_roots = (rooted, build_closure(self._database, rooted))
            rooted = self._kept_by_roots[1]
        return held | rooted

    @contextlib.contextmanager
    def _publishing_stopped(self) -> Iterator[None]:
        with scratch.locked(self._tmp, layout.PUBLISH_LOCK, fcntl.LOCK_EX):
            yield


def _released(tree: StoredTree, holders: dict[int, int]) -> list[int]:
    """The blobs that no tree has once this tree is gone. Updates `holders`."""
    released = []
    for number in tree.blobs:
        holders[number] -= 1
        if not holders[number]:
            released.append(number)
    return released


def _groups(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
