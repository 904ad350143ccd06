"""Removes old objects from a cache. The rest stays complete, and pushes may run meanwhile.

    plan      read everything ──▶ units, oldest first ──▶ remove, wait or keep
    collect   mark ──▶ indexes ──▶ traces ──▶ names, maps ──▶ manifests, packs ──▶ mark
                 each only if it is unchanged, and no referring object, read again, names it

A manifest or pack is removed when no map has named it for `grace` seconds, which is longer than any push takes: a
running push may have found it through a map that was removed since. README.md explains this in full.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.gc.gc_marker import Mark, read_mark, read_unnamed, write_mark, write_unnamed
from mmojo_forge.cache.gc.inventory import CacheFile, CacheFileKind, Inventory, Known
from mmojo_forge.cache.gc.selection import Selection, Unit, by_kind
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.model.digest import TreeId
from mmojo_forge.net.settings import Clock

GRACE = 86400.0
"""The default grace in seconds. It is longer than any push takes."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes removed so far and in total, from several threads, but never from two at once."""


@dataclass(frozen=True, slots=True)
class CacheRoot:
    """One index: its derivation, its signer's id, and the time of the last write to it or to what it needs."""

    derivation: str
    signer: str
    used: float
    traces: int
    trees: int


@dataclass(frozen=True, slots=True)
class CacheGcPlan:
    """The objects to remove from a cache, by kind, and a summary of the rest. Nothing has been removed yet.

    `waits` has the manifests and packs that no remaining map names, with the time since when. A later collection
    removes them. `broken` are the paths of the maps to remove because their trees cannot be fetched. `problems`
    describes unreadable and foreign objects, which are kept.
    """

    now: float
    grace: float
    goes: Mapping[CacheFileKind, tuple[CacheFile, ...]]
    waits: Mapping[str, float]
    waiting_bytes: int
    sizes: Mapping[CacheFileKind, int]
    counts: Mapping[CacheFileKind, int]
    roots: tuple[CacheRoot, ...] = ()
    roots_kept: tuple[CacheRoot, ...] = ()
    broken: frozenset[str] = frozenset()
    problems: tuple[CacheError, ...] = ()
    known: Known = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def freed(self) -> Mapping[CacheFileKind, int]:
        """The bytes to remove, by kind."""
        return {kind: sum(file.size for file in files) for kind, files in self.goes.items()}

    @property
    def total(self) -> int:
        """The bytes to remove."""
        return sum(self.freed.values())

    @property
    def size_before(self) -> int:
        """The size of the cache in bytes."""
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class CacheGcResult:
    """The removed objects by kind, and those spared because somebody needed or rewrote them since the plan."""

    removed: Mapping[CacheFileKind, tuple[CacheFile, ...]]
    spared: tuple[CacheFile, ...]

    @property
    def freed(self) -> Mapping[CacheFileKind, int]:
        """The removed bytes, by kind."""
        return {kind: sum(file.size for file in files) for kind, files in self.removed.items()}

    @property
    def total(self) -> int:
        """The removed bytes."""
        return sum(self.freed.values())


def plan_collection(
    transport: Transport,
    now: float,
    older_than: float,
    target_size: int | None = None,
    grace: float = GRACE,
    *,
    connections: int = 8,
) -> CacheGcPlan:
    """A plan to remove what is older than `older_than` seconds, oldest first, until `target_size` bytes are left.

    Nothing younger than `grace` seconds is removed. Raises CacheError if the cache fails, cannot list its folders
    (`cache-no-listing`), or has another schema (`cache-schema`).
    """
    inventory = Inventory(transport, connections=connections)
    inventory.look(*CacheFileKind)
    since = read_unnamed(transport)
    selection = Selection(inventory, now)
    selected = list(_select(selection, inventory, now - max(older_than, grace), target_size))
    useless = selection.useless_maps(now - grace)
    broken = [tree_map for tree_map in useless if not _can_be_fetched(transport, inventory, tree_map)]
    for tree_map in broken:
        selection.drop_tree(tree_map.id)
    goes, waits, waiting = _unnamed(selection, since, now, grace)
    taken = {id(unit) for unit in selected}
    return CacheGcPlan(
        now=now,
        grace=grace,
        goes=by_kind([*selection.gone, *goes]),
        waits=waits,
        waiting_bytes=waiting,
        sizes={kind: sum(file.size for file in inventory.of(kind).values()) for kind in CacheFileKind},
        counts={kind: len(inventory.of(kind)) for kind in CacheFileKind},
        roots=tuple(_roots(selected)),
        roots_kept=tuple(_roots(unit for unit in selection.units if id(unit) not in taken)),
        broken=frozenset(tree_map.path for tree_map in broken),
        problems=tuple(inventory.problems.values()),
        known=inventory.known,
    )


def collect(
    transport: Transport,
    collection: CacheGcPlan,
    on_progress: OnProgress | None = None,
    *,
    clock: Clock = time.time,
    connections: int = 8,
) -> CacheGcResult:
    """Remove the planned objects, except those that something needs by now.

    Raises CacheError; the cache is consistent then too. The next collection finishes an interrupted one.
    """
    if not any(collection.goes.values()):
        # Nothing is removed, so pushes need no mark.
        if collection.waits != read_unnamed(transport):
            write_unnamed(transport, collection.waits)
        return CacheGcResult(by_kind(()), ())
    run = _Run(transport, collection, on_progress, connections)
    with _marked(transport, clock):
        # Record the waiting times before anything is removed, so that they are not lost if this process dies.
        unneeded = [*collection.goes[CacheFileKind.MANIFEST], *collection.goes[CacheFileKind.PACK]]
        write_unnamed(transport, {**dict.fromkeys((file.path for file in unneeded), 0.0), **collection.waits})
        done = run.run()
        write_unnamed(transport, collection.waits)
    return done


class _Run:
    """One running collection."""

    def __init__(
        self, transport: Transport, collection: CacheGcPlan, on_progress: OnProgress | None, connections: int
    ) -> None:
        self._transport = transport
        self._collection = collection
        self._on_progress = on_progress
        self._inventory = Inventory(transport, collection.known, connections=connections)
        self._lock = threading.Lock()
        self._removed: list[CacheFile] = []
        self._bytes = 0

    def run(self) -> CacheGcResult:
        """Remove each kind after the kinds that refer to it, and return the result.

        Before each kind, the referring objects are read again: a push may have added some.
        """
        now = self._inventory
        now.see(CacheFileKind.INDEX)
        self._remove(CacheFileKind.INDEX, lambda index: True)
        now.look(CacheFileKind.INDEX)
        now.see(CacheFileKind.TRACE)
        keys = {key for index in now.of(CacheFileKind.INDEX).values() for key in now.named(index).keys}
        self._remove(CacheFileKind.TRACE, lambda trace: trace.id not in keys)
        now.look(CacheFileKind.INDEX, CacheFileKind.TRACE)
        now.see(CacheFileKind.NAME, CacheFileKind.MAP)
        trees = self._named_trees() - {found.id for found in self._broken()}
        self._remove(CacheFileKind.NAME, lambda name: name.id not in trees)
        self._remove(CacheFileKind.MAP, lambda found: found.id not in trees)
        now.look(CacheFileKind.MAP)
        now.see(CacheFileKind.MANIFEST, CacheFileKind.PACK)
        mapped = {found.id for found in now.of(CacheFileKind.MAP).values()}
        packs = {pack for found in now.of(CacheFileKind.MAP).values() for pack in now.named(found).packs}
        self._remove(CacheFileKind.MANIFEST, lambda manifest: manifest.id not in mapped)
        self._remove(CacheFileKind.PACK, lambda pack: pack.id not in packs)
        removed = by_kind(self._removed)
        goes = self._collection.goes
        spared = [file for kind in CacheFileKind for file in goes[kind] if file not in set(removed[kind])]
        return CacheGcResult(removed, tuple(spared))

    def _named_trees(self) -> set[str]:
        indexes = self._inventory.of(CacheFileKind.INDEX).values()
        traces = self._inventory.of(CacheFileKind.TRACE).values()
        return {tree for file in (*indexes, *traces) for tree in self._inventory.named(file).trees}

    def _broken(self) -> list[CacheFile]:
        return [file for file in self._collection.goes[CacheFileKind.MAP] if file.path in self._collection.broken]

    def _remove(self, kind: CacheFileKind, may_go: Callable[[CacheFile], bool]) -> None:
        there = self._inventory.of(kind)
        going = [file for file in self._collection.goes[kind] if there.get(file.path) == file and may_go(file)]
        self._inventory.each(self._delete, going)

    def _delete(self, found: CacheFile) -> None:
        self._transport.delete(found.path)
        with self._lock:
            self._removed.append(found)
            self._bytes += found.size
            if self._on_progress is not None:
                self._on_progress(self._bytes, self._collection.total)


def _select(selection: Selection, inventory: Inventory, oldest: float, target_size: int | None) -> Iterator[Unit]:
    """Drop units last used before `oldest`, oldest first, until `target_size` is reached; yields the dropped units.

    A unit with an unreadable index or trace is kept, because nobody knows what it refers to.
    """
    unreadable = inventory.unreadable
    keys = {trace.id for trace in inventory.of(CacheFileKind.TRACE).values() if trace.path in unreadable}
    for unit in selection.units:
        if unit.used > oldest or (target_size is not None and selection.bytes_left <= target_size):
            return
        if unit.index.path not in unreadable if unit.index else unit.keys.isdisjoint(keys):
            selection.drop(unit)
            yield unit


def _unnamed(
    selection: Selection, since: Mapping[str, float], now: float, grace: float
) -> tuple[list[CacheFile], dict[str, float], int]:
    """The manifests and packs to remove, those that wait, and the bytes of the latter.

    Young ones are in neither: they may belong to a running push.
    """
    goes, waits, waiting = [], {}, 0
    for found, was_named in selection.unnamed():
        if found.modified > now - grace or found.modified <= 0:
            continue
        began = now if was_named else min(since.get(found.path, now), now)
        if now - began >= grace:
            goes.append(found)
        else:
            waits[found.path] = began
            waiting += found.size
    return goes, waits, waiting


def _can_be_fetched(transport: Transport, inventory: Inventory, found: CacheFile) -> bool:
    """Whether the tree's manifest and packs exist. A listing can lag behind, so this asks for each object."""
    packs = [layout.pack_path(pack) for pack in inventory.named(found).packs]
    return all(transport.size(path) is not None for path in (layout.tree_path(TreeId(found.id)), *packs))


def _roots(units: Iterable[Unit]) -> Iterator[CacheRoot]:
    for unit in units:
        if unit.index is not None:
            yield CacheRoot(unit.index.id, unit.index.signer, unit.used, len(unit.keys), len(unit.trees))


@contextmanager
def _marked(transport: Transport, clock: Clock) -> Iterator[None]:
    """Mark the cache during a collection; raises CacheError (`cache-refused`) if another one is running."""
    now = clock()
    before = read_mark(transport)
    if before.is_under_way(now):
        raise CacheError(
            f"collect in {transport.place}: another collection is running",
            detail=f"It began {now - before.began:.0f} s ago. If it died, forge ignores it some hours after it began.",
            reason="cache-refused",
            fault=CacheFault.REFUSING,
        )
    # Later than the last mark even if clocks disagree, because a push compares marks.
    began = max(now, before.began + 1, before.ended + 1)
    write_mark(transport, Mark(began, before.ended))
    try:
        yield
    except BaseException:
        with suppress(CacheError):
            write_mark(transport, Mark(began, max(clock(), began)))
        raise
    write_mark(transport, Mark(began, max(clock(), began)))
