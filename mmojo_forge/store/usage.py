"""How much room what takes: each object's own bytes, those it shares with others, those that it alone has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store.census import Census, StoredTree, bytes_by_kind, names_of_trees
from mmojo_forge.store.database import Database


@dataclass(frozen=True, slots=True)
class Sharing:
    """Another tree that has some of the same content, and how many bytes of it."""

    tree: TreeId
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectUsage:
    """One tree: `size` is the bytes of its content, each file that occurs twice counted once; of these `exclusive` are
    in no other tree. `sharers` are the others that have the rest, the largest first."""

    tree: TreeId
    name: str
    files: int
    size: int
    exclusive: int
    used: float
    sharers: tuple[Sharing, ...]

    @property
    def shared(self) -> int:
        """Bytes that some other tree has too."""
        return self.size - self.exclusive


@dataclass(frozen=True, slots=True)
class Usage:
    """The store's bytes by kind, and the objects that were asked for, those with the most of their own first.

    `apparent` is what the trees would take if nothing were shared, `unused` the bytes of blobs that no tree has.
    """

    kinds: Mapping[str, int]
    objects: tuple[ObjectUsage, ...]
    trees: int
    apparent: int
    unused: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.kinds.values())


def measure(root: str, database: Database, trees: Collection[TreeId] | None) -> Usage:
    """The usage of the store; `objects` are those of the trees that are given, or all."""
    census = Census.take(root, database)
    holders = census.holders(census.trees.values())
    names = names_of_trees(root, database)
    wanted = [tree for tree in census.trees.values() if trees is None or tree.id in trees]
    # Who shares with whom is told only of what was asked for by name: of all pairs there are too many.
    sharers = _sharers(census, wanted, names) if trees is not None else {}
    measured = [
        ObjectUsage(
            tree.id,
            names.get(tree.id, ""),
            tree.files,
            census.size_of(tree.blobs),
            census.size_of(number for number in tree.blobs if holders[number] == 1),
            tree.used,
            sharers.get(tree.id, ()),
        )
        for tree in wanted
    ]
    unused = census.size_of(number for number in range(len(census.blobs)) if number not in holders)
    apparent = sum(census.size_of(tree.blobs) for tree in census.trees.values())
    measured.sort(key=lambda one: (-one.exclusive, -one.size, one.tree))
    return Usage(bytes_by_kind(root, database), tuple(measured), len(census.trees), apparent, unused)


def _sharers(
    census: Census, wanted: list[StoredTree], names: Mapping[TreeId, str]
) -> dict[TreeId, tuple[Sharing, ...]]:
    having: dict[int, list[TreeId]] = {number: [] for tree in wanted for number in tree.blobs}
    for tree in census.trees.values():
        for number in tree.blobs:
            if number in having:
                having[number].append(tree.id)
    found = {}
    for tree in wanted:
        shared: Counter[TreeId] = Counter()
        for number in tree.blobs:
            for other in having[number]:
                if other != tree.id:
                    shared[other] += census.sizes[number]
        found[tree.id] = tuple(Sharing(other, names.get(other, ""), size) for other, size in shared.most_common())
    return found
