"""Disk usage: how many bytes each object takes, how many it shares with others, and how many only it has.

`StoreContents` holds every blob with its size and every tree with its blobs, read from rows and manifests; the
collector uses it too. It refers to blobs by number: a tree of 18,000 files then costs little more than a list of
integers.
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
    """One tree, with the times it was added and last used (seconds since the epoch) and the numbers of its blobs."""

    id: TreeId
    added: float
    used: float
    files: int
    blobs: tuple[int, ...]


@dataclass(slots=True)
class StoreContents:
    """All blobs and trees of a store. Every number in a tree stands for a blob, which may lack a row."""

    blobs: list[Blob] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    trees: dict[TreeId, StoredTree] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    _numbers: dict[Blob, int] = field(default_factory=dict)

    @classmethod
    def take(cls, root: str, database: Database) -> StoreContents:
        """The contents of the store; raises StoreError (`tree-missing`, `tree-corrupt`) for a damaged manifest."""
        held = cls()
        for digest, executable, size in database.query("SELECT digest, executable, size FROM blobs ORDER BY digest"):
            held._number(Blob(digest, bool(executable)), size)
        held.add_new(root, database)
        held.late.clear()
        return held

    def add_new(self, root: str, database: Database) -> None:
        """Add the trees that came since the last look, and note their blobs as `late`."""
        rows = database.query("SELECT id, added, used, files FROM trees")
        new = [self._read(root, *row) for row in rows if row[0] not in self.trees]
        self.trees.update((tree.id, tree) for tree in new)
        self.late.update(number for tree in new for number in tree.blobs)

    def size_of(self, blobs: Iterable[int]) -> int:
        """The bytes of these blobs together."""
        return sum(self.sizes[number] for number in blobs)

    def holders(self, trees: Iterable[StoredTree]) -> Counter[int]:
        """The number of the given trees that have each blob."""
        return Counter(number for tree in trees for number in tree.blobs)

    def number_of(self, blob: Blob) -> int | None:
        """The blob's number, or None if neither the store nor a tree has it."""
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
    """A name for each tree: that of its object, or else that of the trace that has it as an output."""
    names = {TreeId(tree): name.partition("-")[2] for tree, name in objects.list_objects(root)}
    for tree, name in database.query(
        "SELECT json_extract(value, '$.tree'), traces.name FROM traces, json_each(traces.outputs)"
    ):
        names.setdefault(TreeId(tree), name)
    return names


def bytes_below(path: str) -> int:
    """The bytes of all files below a folder, or of one file; 0 if there is none. Follows no symlinks."""
    return sum(size for _, size in files_below(path))


def files_below(path: str) -> Iterator[tuple[str, int]]:
    """All files below a folder, with their sizes in bytes. Skips files that vanish meanwhile or are not readable."""
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
    """The bytes in the store, by kind. Objects are hard links to blobs, so they have no bytes of their own."""
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
    """Another tree with some of the same content, and the number of bytes shared."""

    tree: TreeId
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectUsage:
    """The usage of one tree. `size` is the bytes of its content, with repeated files counted once.

    `exclusive` is the bytes that no other tree has. `sharers` are the trees that have the rest, largest share first.
    """

    tree: TreeId
    name: str
    files: int
    size: int
    exclusive: int
    used: float
    sharers: tuple[Sharing, ...]

    @property
    def shared(self) -> int:
        """The bytes that another tree has too."""
        return self.size - self.exclusive


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """The store's bytes by kind, and the requested objects, those with the most exclusive bytes first.

    `apparent` is the bytes that the trees would take without sharing. `unused` is the bytes of blobs in no tree.
    """

    kinds: Mapping[str, int]
    objects: tuple[ObjectUsage, ...]
    trees: int
    apparent: int
    unused: int

    @property
    def total(self) -> int:
        """The bytes of all kinds together."""
        return sum(self.kinds.values())


def measure(root: str, database: Database, trees: Collection[TreeId] | None) -> StoreUsage:
    """The usage of the store; `objects` has the given trees, or all."""
    held = StoreContents.take(root, database)
    holders = held.holders(held.trees.values())
    names = names_of_trees(root, database)
    wanted = [tree for tree in held.trees.values() if trees is None or tree.id in trees]
    # Sharers are computed only for requested trees: for all trees there are too many pairs.
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
    measured.sort(key=lambda usage: (-usage.exclusive, -usage.size, usage.tree))
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
