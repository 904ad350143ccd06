"""Tree maps: where in which packs the content of a tree is. Nobody has to trust one.

A map is canonical JSON, compressed:

    {"chunks":[["<blake3>",0,0,9120,32768],…],"files":[[1,2,3],…],"groups":[[14,0],…],
     "packs":["<id>",…],"schema":1,"small":65536,"tree":"<id>"}

`chunks` has for each chunk its BLAKE3, the number of its pack, and in that the offset and length of its frame, and the
length of its content. `groups` and `files` go through the small and the large files of the manifest in the order of
`chunking.layout_of`: how many small files lie in a chunk, and of which chunks a large file is made.

What a map says is used only where it agrees with the manifest, which is known to be the tree's; so a wrong map can
lead to nothing but an error, and to no more bytes than the tree has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from mmojo_forge.cache.failure import lying
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import CHUNK_LEAST, CHUNK_MOST, ChunkLayout, layout_of, longest_frame
from mmojo_forge.model import canonical
from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.model.tree import Tree, TreeEntry


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some content: its BLAKE3, the pack it is in, its frame's place there, and the content's size."""

    digest: str
    pack: str
    offset: int
    length: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """Small files that one chunk holds, one after the other."""

    files: tuple[TreeEntry, ...]
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Large:
    """A large file and the chunks it is made of."""

    file: TreeEntry
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class TreeMap:
    """Where a tree's content is. Callers may assume that sizes add up to those of the manifest."""

    tree: TreeId
    empty: tuple[TreeEntry, ...]
    groups: tuple[Group, ...]
    files: tuple[Large, ...]

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, as often as it occurs."""
        for group in self.groups:
            yield group.chunk
        for file in self.files:
            yield from file.chunks

    def packs(self) -> list[str]:
        """The packs that are needed."""
        return list(dict.fromkeys(chunk.pack for chunk in self.chunks()))

    def encode(self, small: int) -> bytes:
        """The canonical bytes, not compressed."""
        distinct = list(dict.fromkeys(self.chunks()))
        number = {chunk: at for at, chunk in enumerate(distinct)}
        packs = {pack: at for at, pack in enumerate(self.packs())}
        document: canonical.Json = {
            "schema": layout.SCHEMA,
            "tree": self.tree,
            "small": small,
            "packs": list(packs),
            "chunks": [[one.digest, packs[one.pack], one.offset, one.length, one.size] for one in distinct],
            "groups": [[len(group.files), number[group.chunk]] for group in self.groups],
            "files": [[number[chunk] for chunk in file.chunks] for file in self.files],
        }
        return canonical.encode(document)


def parse(encoded: bytes, tree: Tree, place: str) -> TreeMap:
    """The map of `tree`; raises CacheError (`map-mismatch`, `map-invalid`, `cache-schema`)."""
    reader = _Reader(tree, place)
    try:
        document = json.loads(encoded)
        if document["schema"] != layout.SCHEMA:
            raise lying(place, reader.path, f"schema {document['schema']!r} is not {layout.SCHEMA}", "cache-schema")
        if document["tree"] != tree.id:
            raise lying(place, reader.path, "it is another tree's", "map-mismatch")
        return reader.read(document)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise lying(place, reader.path, f"malformed: {error!r}"[:300], "map-invalid") from error


def longest(tree: Tree) -> int:
    """More bytes than any map of the tree has: a chunk holds a small file at least, or so much of a large one."""
    chunks = sum(2 + file.size // CHUNK_LEAST for file in tree.files())
    return 4096 + 256 * chunks


class _Reader:
    """Reads one map against the manifest."""

    def __init__(self, tree: Tree, place: str) -> None:
        self.path = layout.map_path(tree.id)
        self._tree = tree
        self._place = place

    def read(self, document: dict[str, Any]) -> TreeMap:
        """The map that the document is."""
        small = _number(document["small"], CHUNK_MOST + 1)
        packs = [pack if is_hex_digest(pack) else self._refuse("a pack has no name") for pack in document["packs"]]
        found = [self._chunk(row, packs) for row in document["chunks"]]
        content = layout_of(self._tree, small)
        groups = tuple(self._groups(document["groups"], content, found))
        files = tuple(self._files(document["files"], content, found))
        return TreeMap(self._tree.id, content.empty, groups, files)

    def _chunk(self, row: list[Any], packs: list[str]) -> Chunk:
        digest, pack, offset, length, size = row
        size = _number(size, CHUNK_MOST)
        length = _number(length, longest_frame(size))
        offset = _number(offset, layout.MAX_PACK - length)
        if not size or not length or not is_hex_digest(digest):
            self._refuse("a chunk is none")
        return Chunk(digest, packs[_number(pack, len(packs))], offset, length, size)

    def _groups(self, rows: list[list[Any]], content: ChunkLayout, found: list[Chunk]) -> Iterator[Group]:
        at = 0
        for count, number in rows:
            files = content.small[at : at + _number(count, len(content.small))]
            chunk = found[_number(number, len(found))]
            if not files or sum(file.size for file in files) != chunk.size:
                self._refuse("a group is not of the size of its files")
            at += len(files)
            yield Group(files, chunk)
        if at != len(content.small):
            self._refuse("small files are missing")

    def _files(self, rows: list[list[Any]], content: ChunkLayout, found: list[Chunk]) -> Iterator[Large]:
        for file, numbers in zip(content.large, rows, strict=True):
            chunks = tuple(found[_number(number, len(found))] for number in numbers)
            if sum(chunk.size for chunk in chunks) != file.size:
                self._refuse("a file is not of the size of its chunks")
            yield Large(file, chunks)

    def _refuse(self, cause: str) -> NoReturn:
        raise lying(self._place, self.path, cause, "map-invalid")


def _number(value: object, most: int) -> int:
    """A whole number from 0 to `most`; raises ValueError for anything else, booleans too."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number up to {most}")
    return value
