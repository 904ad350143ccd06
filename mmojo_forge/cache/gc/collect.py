"""Removing what is old from a cache, so that whatever stays is whole, and a push may run meanwhile.

    plan      look at everything ──▶ units, oldest first ──▶ what goes, what waits, what stays
    collect   mark ──▶ indexes ──▶ traces ──▶ names, maps ──▶ manifests, packs ──▶ mark
                 each only if it is as it was, and nothing above it, looked at anew, names it

A manifest or pack goes when no map has named it for `grace` seconds, which is longer than any push takes: a push may
have found it by a map that is gone by now. README.md has the whole of it.
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
"""Longer than any push takes, in seconds."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are removed and the bytes that will be; from several threads, one at a time."""


@dataclass(frozen=True, slots=True)
class CacheRoot:
    """One index: the derivation it is about, the id of its signer, when it or what it needs was written last."""

    derivation: str
    signer: str
    used: float
    traces: int
    trees: int


@dataclass(frozen=True, slots=True)
class CacheGcPlan:
    """What may go from a cache, by kind, and what stays; nothing has happened yet.

    `waits` are manifests and packs that no map names that stays, and since when: they go in a later collection.
    `broken` are the maps, among those that go, of trees that nobody can fetch. `problems` is what is wrong with what
    there is: what cannot be read, or is not ours, stays.
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
        """Bytes that go, by kind."""
        return {kind: sum(one.size for one in several) for kind, several in self.goes.items()}

    @property
    def total(self) -> int:
        """Bytes that go."""
        return sum(self.freed.values())

    @property
    def size_before(self) -> int:
        """Bytes that there are."""
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class CacheGcResult:
    """What went, by kind; and what did not, since somebody came to need it or wrote it anew."""

    removed: Mapping[CacheFileKind, tuple[CacheFile, ...]]
    spared: tuple[CacheFile, ...]

    @property
    def freed(self) -> Mapping[CacheFileKind, int]:
        """Bytes that went, by kind."""
        return {kind: sum(one.size for one in several) for kind, several in self.removed.items()}

    @property
    def total(self) -> int:
        """Bytes that went."""
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
    """What may go: what was written `older_than` seconds ago, but no more than needed for a cache of `target_size`.

    Nothing that is younger than `grace` seconds goes. Raises CacheError where the cache fails, does not list its
    folders (`cache-no-listing`), or is of another schema (`cache-schema`).
    """
    inventory = Inventory(transport, connections=connections)
    inventory.look(*CacheFileKind)
    since = read_unnamed(transport)
    selection = Selection(inventory, now)
    selected = list(_select(selection, inventory, now - max(older_than, grace), target_size))
    broken = [one for one in selection.useless_maps(now - grace) if not _can_be_fetched(transport, inventory, one)]
    for one in broken:
        selection.drop_tree(one.id)
    goes, waits, waiting = _unnamed(selection, since, now, grace)
    taken = {id(unit) for unit in selected}
    return CacheGcPlan(
        now=now,
        grace=grace,
        goes=by_kind([*selection.gone, *goes]),
        waits=waits,
        waiting_bytes=waiting,
        sizes={kind: sum(one.size for one in inventory.of(kind).values()) for kind in CacheFileKind},
        counts={kind: len(inventory.of(kind)) for kind in CacheFileKind},
        roots=tuple(_roots(selected)),
        roots_kept=tuple(_roots(unit for unit in selection.units if id(unit) not in taken)),
        broken=frozenset(one.path for one in broken),
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
    """Remove what may go, as far as nobody needs it by now. Raises CacheError; what is there then is whole.

    A collection that was cut off is finished by the next one.
    """
    if not any(collection.goes.values()):
        # No push has to be told of that.
        if collection.waits != read_unnamed(transport):
            write_unnamed(transport, collection.waits)
        return CacheGcResult(by_kind(()), ())
    run = _Run(transport, collection, on_progress, connections)
    with _marked(transport, clock):
        # Before anything goes: what waits begins to wait now, whatever becomes of us.
        unneeded = [*collection.goes[CacheFileKind.MANIFEST], *collection.goes[CacheFileKind.PACK]]
        write_unnamed(transport, {**dict.fromkeys((one.path for one in unneeded), 0.0), **collection.waits})
        done = run.run()
        write_unnamed(transport, collection.waits)
    return done


class _Run:
    """One collection that is under way."""

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
        """Each kind after what names it."""
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
        spared = [one for kind in CacheFileKind for one in self._collection.goes[kind] if one not in set(removed[kind])]
        return CacheGcResult(removed, tuple(spared))

    def _named_trees(self) -> set[str]:
        several = [*self._inventory.of(CacheFileKind.INDEX).values(), *self._inventory.of(CacheFileKind.TRACE).values()]
        return {tree for one in several for tree in self._inventory.named(one).trees}

    def _broken(self) -> list[CacheFile]:
        return [one for one in self._collection.goes[CacheFileKind.MAP] if one.path in self._collection.broken]

    def _remove(self, kind: CacheFileKind, may_go: Callable[[CacheFile], bool]) -> None:
        there = self._inventory.of(kind)
        going = [one for one in self._collection.goes[kind] if there.get(one.path) == one and may_go(one)]
        self._inventory.each(self._delete, going)

    def _delete(self, found: CacheFile) -> None:
        self._transport.delete(found.path)
        with self._lock:
            self._removed.append(found)
            self._bytes += found.size
            if self._on_progress is not None:
                self._on_progress(self._bytes, self._collection.total)


def _select(selection: Selection, inventory: Inventory, oldest: float, target_size: int | None) -> Iterator[Unit]:
    """Take off what is older than that, oldest first, as long as there is too much; gives what was taken off."""
    unreadable = inventory.unreadable
    keys = {one.id for one in inventory.of(CacheFileKind.TRACE).values() if one.path in unreadable}
    for unit in selection.units:
        if unit.used > oldest or (target_size is not None and selection.bytes_left <= target_size):
            return
        if unit.index.path not in unreadable if unit.index else unit.keys.isdisjoint(keys):
            selection.drop(unit)
            yield unit


def _unnamed(
    selection: Selection, since: Mapping[str, float], now: float, grace: float
) -> tuple[list[CacheFile], dict[str, float], int]:
    """Manifests and packs that go; those that wait, and how many bytes these have. What is young may be a push's that
    is running, and does neither."""
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
    """Whether what a listing lacks is there nonetheless."""
    packs = [layout.pack_path(pack) for pack in inventory.named(found).packs]
    return all(transport.size(path) is not None for path in (layout.tree_path(TreeId(found.id)), *packs))


def _roots(units: Iterable[Unit]) -> Iterator[CacheRoot]:
    for unit in units:
        if unit.index is not None:
            yield CacheRoot(unit.index.id, unit.index.signer, unit.used, len(unit.keys), len(unit.trees))


@contextmanager
def _marked(transport: Transport, clock: Clock) -> Iterator[None]:
    """While things are removed, the mark says so; raises CacheError where another collection is under way."""
    now = clock()
    before = read_mark(transport)
    if before.is_under_way(now):
        raise CacheError(
            f"collect in {transport.place}: another collection is under way",
            detail=f"It began {now - before.began:.0f} s ago; one that died is forgotten after some hours.",
            reason="cache-refused",
            fault=CacheFault.REFUSING,
        )
    # Later than the last one, whatever the clocks say, so that it differs.
    began = max(now, before.began + 1, before.ended + 1)
    write_mark(transport, Mark(began, before.ended))
    try:
        yield
    except BaseException:
        with suppress(CacheError):
            write_mark(transport, Mark(began, max(clock(), began)))
        raise
    write_mark(transport, Mark(began, max(clock(), began)))
