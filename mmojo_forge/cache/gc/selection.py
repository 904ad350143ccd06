"""Which of what lies in a cache is old enough to go, so that what stays is whole.

Whoever needs something keeps it, and is as old as the youngest of itself and the maps of the trees that it names:

    an index      keeps traces and trees
    a trace       keeps itself, those for the same key, and its trees
    a tree        that none of these names, itself

Manifests and packs are kept by maps, whoever brought these.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmojo_forge.cache.gc.inventory import CacheFile, CacheFileKind, Inventory


@dataclass(frozen=True, slots=True)
class Unit:
    """Who keeps something: an index, the traces for a key, a tree by itself."""

    index: CacheFile | None
    keys: frozenset[str]
    trees: frozenset[str]
    used: float


class Selection:
    """A cache's units, taken away one by one; it knows at any time how many bytes are left.

    `now` counts as the time of what the cache has no time for.
    """

    def __init__(self, inventory: Inventory, now: float) -> None:
        self._inventory = inventory
        self._now = now
        self._traces = _by_id(inventory.of(CacheFileKind.TRACE).values())
        self._names = _by_id(inventory.of(CacheFileKind.NAME).values())
        self._maps = {one.id: one for one in inventory.of(CacheFileKind.MAP).values()}
        self._manifests = {one.id: one for one in inventory.of(CacheFileKind.MANIFEST).values()}
        self._packs = {one.id: one for one in inventory.of(CacheFileKind.PACK).values()}
        self.units = sorted(self._units(), key=lambda unit: (unit.used, unit.index.path if unit.index else ""))
        self._keys = Counter(key for unit in self.units for key in unit.keys)
        self._trees = Counter(tree for unit in self.units for tree in unit.trees)
        self._named_packs = Counter(pack for one in self._maps.values() for pack in inventory.named(one).packs)
        self.gone: list[CacheFile] = []
        """Indexes, traces, names and maps."""
        self.bytes_left = sum(
            one.size
            for kind in (CacheFileKind.INDEX, CacheFileKind.TRACE, CacheFileKind.NAME, CacheFileKind.MAP)
            for one in inventory.of(kind).values()
        )
        self.bytes_left += sum(one.size for one in self._manifests.values() if one.id in self._maps)
        self.bytes_left += sum(one.size for one in self._packs.values() if one.id in self._named_packs)

    def drop(self, unit: Unit) -> None:
        """Let it go, with what nothing else needs."""
        if unit.index is not None:
            self._go(unit.index)
        for key in _last(unit.keys, self._keys):
            for trace in self._traces.get(key, ()):
                self._go(trace)
        for tree in _last(unit.trees, self._trees):
            self.drop_tree(tree)

    def drop_tree(self, tree: str) -> None:
        """Let a tree's names and map go; its manifest, and packs that no other map names, are not needed then."""
        for name in self._names.pop(tree, ()):
            self._go(name)
        found = self._maps.pop(tree, None)
        if found is None:
            return
        self._go(found)
        self.bytes_left -= self._manifests[tree].size if tree in self._manifests else 0
        for pack in _last(self._inventory.named(found).packs, self._named_packs):
            self.bytes_left -= self._packs[pack].size if pack in self._packs else 0

    def useless_maps(self, oldest: float) -> Iterator[CacheFile]:
        """Maps of trees that cannot be fetched, for a manifest or a pack is not there; none written since `oldest`."""
        for found in self._maps.values():
            packs = self._inventory.named(found).packs
            if 0 < found.modified < oldest and not (found.id in self._manifests and packs <= self._packs.keys()):
                yield found

    def unnamed(self) -> Iterator[tuple[CacheFile, bool]]:
        """Manifests and packs that no map needs which stays; and whether one that goes does."""
        gone = [one for one in self.gone if one.kind is CacheFileKind.MAP]
        packs = {pack for one in gone for pack in self._inventory.named(one).packs}
        trees = {one.id for one in gone}
        for found in self._manifests.values():
            if found.id not in self._maps:
                yield found, found.id in trees
        for found in self._packs.values():
            if not self._named_packs[found.id]:
                yield found, found.id in packs

    def _go(self, found: CacheFile) -> None:
        self.gone.append(found)
        self.bytes_left -= found.size

    def _units(self) -> Iterator[Unit]:
        named = self._inventory.named
        trees: set[str] = set()
        for index in self._inventory.of(CacheFileKind.INDEX).values():
            yield self._unit(index, [index], named(index).keys, named(index).trees)
            trees |= named(index).trees
        for key, traces in self._traces.items():
            claimed = frozenset(tree for trace in traces for tree in named(trace).trees)
            yield self._unit(None, traces, frozenset([key]), claimed)
            trees |= claimed
        for tree in (self._maps.keys() | self._names.keys()) - trees:
            yield self._unit(None, self._names.get(tree, ()), frozenset(), frozenset([tree]))

    def _unit(
        self, index: CacheFile | None, itself: Iterable[CacheFile], keys: frozenset[str], trees: frozenset[str]
    ) -> Unit:
        maps = [self._maps[tree] for tree in trees if tree in self._maps]
        return Unit(index, keys, trees, self._youngest([*itself, *maps]))

    def _youngest(self, several: Iterable[CacheFile]) -> float:
        return max((one.modified if one.modified > 0 else self._now for one in several), default=self._now)


def _by_id(several: Iterable[CacheFile]) -> dict[str, list[CacheFile]]:
    found: defaultdict[str, list[CacheFile]] = defaultdict(list)
    for one in several:
        found[one.id].append(one)
    return found


def _last(needed: Iterable[str], count: Counter[str]) -> Iterator[str]:
    """Those that nobody else needs, once these needs are taken off."""
    for one in needed:
        count[one] -= 1
        if not count[one]:
            yield one


def by_kind(several: Iterable[CacheFile]) -> Mapping[CacheFileKind, tuple[CacheFile, ...]]:
    """The objects by kind, in the order in which they are removed."""
    listed = list(several)
    return {kind: tuple(one for one in listed if one.kind is kind) for kind in CacheFileKind}
