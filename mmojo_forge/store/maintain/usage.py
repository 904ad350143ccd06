"""How much room what takes: each object's own bytes, those it shares with others, those that it alone has.

What the store holds, as a whole: every blob with its size, every tree with its blobs. Read from rows and manifests.

Blobs go by number, for a tree of 18,000 files should cost little more than a list of integers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.tree import EntryKind
from mmojo_forge.store import layout, objects
from mmojo_forge.store.add.batch import Blob
from mmojo_forge.store.db.database import Database

_CONTENT = (EntryKind.FILE.value, EntryKind.EXECUTABLE.value)


@dataclass(frozen=True, slots=True)
class StoredTree:
    """One tree: when it was added and last used (seconds since the epoch), and the numbers of its blobs."""

    id: TreeId
    added: float
    used: float
    files: int
    blobs: tuple[int, ...]


@dataclass(slots=True)
class StoreContents:
    """All blobs and trees. Callers may assume that every number a tree has stands for a blob, with a row or without."""

    blobs: list[Blob] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    trees: dict[TreeId, StoredTree] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    _numbers: dict[Blob, int] = field(default_factory=dict)

    @classmethod
    def take(cls, root: str, database: Database) -> StoreContents:
        """What the store holds; raises StoreError (`tree-missing`, `tree-corrupt`) where a manifest is damaged."""
        held = cls()
        for digest, executable, size in database.query("SELECT digest, executable, size FROM blobs ORDER BY digest"):
            held._number(Blob(digest, bool(executable)), size)
        held.add_new(root, database)
        held.late.clear()
        return held

    def add_new(self, root: str, database: Database) -> None:
        """Take in the trees that were added since, and note their blobs as `late`."""
        rows = database.query("SELECT id, added, used, files FROM trees")
        new = [self._read(root, *row) for row in rows if row[0] not in self.trees]
        self.trees.update((tree.id, tree) for tree in new)
        self.late.update(number for tree in new for number in tree.blobs)

    def size_of(self, blobs: Iterable[int]) -> int:
        """Their bytes together."""
        return sum(self.sizes[number] for number in blobs)

    def holders(self, trees: Iterable[StoredTree]) -> Counter[int]:
        """How many of the trees have each blob."""
        return Counter(number for tree in trees for number in tree.blobs)

    def number_of(self, blob: Blob) -> int | None:
        """The blob's number, if the store or a tree has it."""
        return self._numbers.get(blob)

    def _number(self, blob: Blob, size: int) -> int:
        number = self._numbers.setdefault(blob, len(self.blobs))
        if number == len(self.blobs):
            self.blobs.append(blob)
            self.sizes.append(size)
        return number

    def _read(self, root: str, tree: str, added: float, used: float, files: int) -> StoredTree:
        manifest = objects.read_manifest(root, TreeId(tree))
        numbers = {
            self._number(Blob(row[2], row[1] == EntryKind.EXECUTABLE), row[3])
            for row in objects.rows_of(manifest)
            if row[1] in _CONTENT
        }
        return StoredTree(TreeId(tree), added, used, files, tuple(sorted(numbers)))


def names_of_trees(root: str, database: Database) -> dict[TreeId, str]:
    """What each tree goes by: its object's name, or that of the trace it is an output of."""
    names = {TreeId(tree): name.partition("-")[2] for tree, name in objects.list_objects(root)}
    for tree, name in database.query(
        "SELECT json_extract(value, '$.tree'), traces.name FROM traces, json_each(traces.outputs)"
    ):
        names.setdefault(TreeId(tree), name)
    return names


def bytes_below(path: str) -> int:
    """The sizes of all files below a folder, or of the file; 0 where there is none. Symlinks are not followed."""
    return sum(size for _, size in files_below(path))


def files_below(path: str) -> Iterator[tuple[str, int]]:
    """All files below a folder, with their sizes; what vanishes or cannot be read meanwhile is left out."""
    pending = [path]
    while pending:
        here = pending.pop()
        try:
            with os.scandir(here) as entries:
                listed = list(entries)
        except NotADirectoryError:
            yield here, os.lstat(here).st_size
            continue
        except OSError:
            continue
        for entry in listed:
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path, entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue


def bytes_by_kind(root: str, database: Database) -> dict[str, int]:
    """How many bytes lie in the store, by kind. Objects are hard links of blobs and have none of their own."""
    (blobs,) = database.query("SELECT coalesce(sum(size), 0) FROM blobs")[0]
    kinds = {"blobs": int(blobs)}
    for name in (layout.TREES, layout.LOGS):
        kinds[name] = bytes_below(os.path.join(root, name))
    kinds["database"] = sum(bytes_below(os.path.join(root, layout.DATABASE + end)) for end in ("", "-wal", "-shm"))
    for name in (layout.DOWNLOADS, layout.FAILED, layout.CHECKS, layout.CACHE, layout.DAMAGED, layout.TMP):
        kinds[name] = bytes_below(os.path.join(root, name))
    return kinds


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
class StoreUsage:
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


def measure(root: str, database: Database, trees: Collection[TreeId] | None) -> StoreUsage:
    """The usage of the store; `objects` are those of the trees that are given, or all."""
    held = StoreContents.take(root, database)
    holders = held.holders(held.trees.values())
    names = names_of_trees(root, database)
    wanted = [tree for tree in held.trees.values() if trees is None or tree.id in trees]
    # Who shares with whom is told only of what was asked for by name: of all pairs there are too many.
    sharers = _sharers(held, wanted, names) if trees is not None else {}
    measured = [
        ObjectUsage(
            tree.id,
            names.get(tree.id, ""),
            tree.files,
            held.size_of(tree.blobs),
            held.size_of(number for number in tree.blobs if holders[number] == 1),
            tree.used,
            sharers.get(tree.id, ()),
        )
        for tree in wanted
    ]
    unused = held.size_of(number for number in range(len(held.blobs)) if number not in holders)
    apparent = sum(held.size_of(tree.blobs) for tree in held.trees.values())
    measured.sort(key=lambda one: (-one.exclusive, -one.size, one.tree))
    return StoreUsage(bytes_by_kind(root, database), tuple(measured), len(held.trees), apparent, unused)


def _sharers(
    held: StoreContents, wanted: list[StoredTree], names: Mapping[TreeId, str]
) -> dict[TreeId, tuple[Sharing, ...]]:
    having: dict[int, list[TreeId]] = {number: [] for tree in wanted for number in tree.blobs}
    for tree in held.trees.values():
        for number in tree.blobs:
            if number in having:
                having[number].append(tree.id)
    found = {}
    for tree in wanted:
        shared: Counter[TreeId] = Counter()
        for number in tree.blobs:
            for other in having[number]:
                if other != tree.id:
                    shared[other] += held.sizes[number]
        found[tree.id] = tuple(Sharing(other, names.get(other, ""), size) for other, size in shared.most_common())
    return found
