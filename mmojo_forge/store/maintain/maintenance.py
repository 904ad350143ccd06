"""Operations on a whole local store: collect, verify, measure, repair. `LocalStore.maintenance` gives access to them.

They are no part of the `Store` protocol. Operations that remove things run alone; those that only read run together.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store import layout
from mmojo_forge.store.db import locks
from mmojo_forge.store.db.database import Database
from mmojo_forge.store.failure import reported
from mmojo_forge.store.maintain.gc import Collector, GcPolicy, GcResult, OnStep, Pins
from mmojo_forge.store.maintain.repair import CheckOut, Repairer, RepairResult
from mmojo_forge.store.maintain.usage import StoreUsage, measure
from mmojo_forge.store.maintain.verify import OnProgress, VerifyReport, verify
from mmojo_forge.store.protocol import OnWait
from mmojo_forge.store.scratch import ProcessScratch

_MOST_PASSES = 4


class Maintenance:
    """The operations on the open store at `root`."""

    def __init__(self, root: str, database: Database, process: ProcessScratch) -> None:
        self._root = root
        self._database = database
        self._process = process

    def collect(
        self,
        policy: GcPolicy,
        now: float,
        *,
        dry: bool = False,
        pins: Pins = tuple,
        on_step: OnStep | None = None,
        on_wait: OnWait | None = None,
    ) -> GcResult:
        """The result of a garbage collection by this policy; with `dry`, nothing is removed."""
        with reported("collect garbage", self._root), self._held(on_wait):
            collector = Collector(self._root, self._database, self._process, policy, now, pins)
            return collector.run(dry=dry, on_step=on_step)

    def verify(
        self, *, check_content: bool = True, on_progress: OnProgress | None = None, on_wait: OnWait | None = None
    ) -> VerifyReport:
        """A report of everything in the store that does not match its rows. Changes nothing; the collector waits."""
        with reported("verify store", self._root), self._held(on_wait, shared=True):
            return verify(self._root, self._database, check_content=check_content, on_progress=on_progress)

    def measure(self, trees: Collection[TreeId] | None = None, *, on_wait: OnWait | None = None) -> StoreUsage:
        """The bytes that the store uses, by kind and by tree; `objects` has the given trees, or all."""
        with reported("measure store", self._root), self._held(on_wait, shared=True):
            return measure(self._root, self._database, trees)

    def tree_sizes(self) -> dict[TreeId, int]:
        """The bytes of content of each tree. Files with the same content count each time."""
        with reported("read store", self._root):
            return {TreeId(tree): size for tree, size in self._database.query("SELECT id, size FROM trees")}

    def repair(
        self, check_out: CheckOut, *, on_progress: OnProgress | None = None, on_wait: OnWait | None = None
    ) -> RepairResult:
        """What the repair did: it restores damage from intact copies in the store, and invalidates the rest."""
        with reported("repair store", self._root), self._held(on_wait):
            mended = RepairResult()
            for _ in range(_MOST_PASSES):
                # Verify again after each pass: `verify` can check the objects of a tree only if its manifest is whole.
                report = verify(self._root, self._database, check_content=True, on_progress=on_progress)
                if mended.outcomes.keys() >= set(report.findings):
                    break
                mended.add(Repairer(self._root, self._database, self._process, check_out).mend(report))
        return mended

    @contextmanager
    def _held(self, on_wait: OnWait | None, *, shared: bool = False) -> Iterator[None]:
        """Holds the maintenance key; operations that only read hold it `shared`."""
        path = os.path.join(self._root, layout.LOCKS)
        with locks.held(path, layout.MAINTENANCE_KEY, on_wait, shared=shared):
            yield
