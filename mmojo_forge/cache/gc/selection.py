"""Selects the objects of a cache that are old enough to be removed, so that the rest stays complete.

A unit keeps the objects that it needs:

    an index                          keeps its traces and trees
    the traces for a key              keep themselves and their trees
    a tree that none of these names   keeps itself

A unit is as old as its youngest part: its own objects and the maps of its trees. Maps keep manifests and packs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmojo_forge.cache.gc.inventory import CacheFile, CacheFileKind, Inventory


@dataclass(frozen=True, slots=True)
class Unit:
    """An index, the traces for a key, or a single tree, with the keys and trees that it keeps."""

    index: CacheFile | None
    keys: frozenset[str]
    trees: frozenset[str]
    used: float


class Selection:
    """The units of a cache, from which units are dropped one by one. It keeps count of the bytes that are left.

    `now` stands in for an unknown modification time.
    """

    def __init__(self, inventory: Inventory, now: float) -> None:
        self._inventory = inventory
        self._now = now
        self._traces = _by_id(inventory.of(CacheFileKind.TRACE).values())
        self._names = _by_id(inventory.of(CacheFileKind.NAME).values())
        self._maps = {file.id: file for file in inventory.of(CacheFileKind.MAP).values()}
        self._manifests = {file.id: file for file in inventory.of(CacheFileKind.MANIFEST).values()}
        self._packs = {file.id: file for file in inventory.of(CacheFileKind.PACK).values()}
        self.units = sorted(self._units(), key=lambda unit: (unit.used, unit.index.path if unit.index else ""))
        self._keys = Counter(key for unit in self.units for key in unit.keys)
        self._trees = Counter(tree for unit in self.units for tree in unit.trees)
        self._named_packs = Counter(pack for file in self._maps.values() for pack in inventory.named(file).packs)
        self.gone: list[CacheFile] = []
        """The dropped indexes, traces, names and maps."""
        self.bytes_left = sum(
            file.size
            for kind in (CacheFileKind.INDEX, CacheFileKind.TRACE, CacheFileKind.NAME, CacheFileKind.MAP)
            for file in inventory.of(kind).values()
        )
        # Manifests and packs without a map are left out: they are removed anyway.
        self.bytes_left += sum(file.size for file in self._manifests.values() if file.id in self._maps)
        self.bytes_left += sum(file.size for file in self._packs.values() if file.id in self._named_packs)

    def drop(self, unit: Unit) -> None:
        """Drop a unit and everything that no other unit keeps."""
        if unit.index is not None:
            self._go(unit.index)
        for key in _last(unit.keys, self._keys):
            for trace in self._traces.get(key, ()):
                self._go(trace)
        for tree in _last(unit.trees, self._trees):
            self.drop_tree(tree)

    def drop_tree(self, tree: str) -> None:
        """Drop a tree's names and map. Its manifest, and packs that no other map names, become unnamed."""
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
        """Maps written before `oldest` whose trees cannot be fetched, because the manifest or a pack is missing."""
        for found in self._maps.values():
            packs = self._inventory.named(found).packs
            if 0 < found.modified < oldest and not (found.id in self._manifests and packs <= self._packs.keys()):
                yield found

    def unnamed(self) -> Iterator[tuple[CacheFile, bool]]:
        """Manifests and packs that no remaining map names, each with whether a dropped map names it."""
        gone = [file for file in self.gone if file.kind is CacheFileKind.MAP]
        packs = {pack for file in gone for pack in self._inventory.named(file).packs}
        trees = {file.id for file in gone}
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

    def _youngest(self, files: Iterable[CacheFile]) -> float:
        return max((file.modified if file.modified > 0 else self._now for file in files), default=self._now)


def _by_id(files: Iterable[CacheFile]) -> dict[str, list[CacheFile]]:
    found: defaultdict[str, list[CacheFile]] = defaultdict(list)
    for file in files:
        found[file.id].append(file)
    return found


def _last(needed: Iterable[str], count: Counter[str]) -> Iterator[str]:
    """Take one reference off each id, and yield the ids that have none left."""
    for name in needed:
        count[name] -= 1
        if not count[name]:
            yield name


def by_kind(files: Iterable[CacheFile]) -> Mapping[CacheFileKind, tuple[CacheFile, ...]]:
    """The objects by kind, in the order in which a collection removes them."""
    listed = list(files)
    return {kind: tuple(file for file in listed if file.kind is kind) for kind in CacheFileKind}
