"""Tree maps locate the content of a tree in packs. A reader does not have to trust them.

A map is canonical JSON, compressed:

    {"chunks":[["<blake3>",0,0,9120,32768],…],"files":[[1,2,3],…],"groups":[[14,0],…],
     "packs":["<id>",…],"schema":1,"small":65536,"tree":"<id>"}

`chunks` has a row for each chunk: its BLAKE3, the number of its pack, the offset and length of its frame in the pack,
and the length of its content. `groups` and `files` follow the manifest's small and large files in the order of
`chunks.layout_of`. A row of `groups` is a number of small files and their chunk; a row of `files` is a large file's
chunks.

A reader uses a map only as far as it agrees with the manifest, whose hash is the tree id. So a wrong map causes an
error at worst, and never makes a reader fetch more content than the tree has.
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
    """A chunk: its BLAKE3, its pack, the offset and length of its frame there, and its content's size."""

    digest: str
    pack: str
    offset: int
    length: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """The small files that one chunk holds, in order."""

    files: tuple[TreeEntry, ...]
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Large:
    """A large file and the chunks it is made of."""

    file: TreeEntry
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class TreeMap:
    """The location of a tree's content. The sizes of the chunks add up to the sizes in the manifest."""

    tree: TreeId
    empty: tuple[TreeEntry, ...]
    groups: tuple[Group, ...]
    files: tuple[Large, ...]

    def chunks(self) -> Iterator[Chunk]:
        """All chunks, with repetitions."""
        for group in self.groups:
            yield group.chunk
        for file in self.files:
            yield from file.chunks

    def packs(self) -> list[str]:
        """The ids of the packs that hold the chunks, each once."""
        return list(dict.fromkeys(chunk.pack for chunk in self.chunks()))

    def encode(self, small: int) -> bytes:
        """The map as uncompressed canonical JSON; `small` is the size at which a file is large."""
        distinct = list(dict.fromkeys(self.chunks()))
        number = {chunk: at for at, chunk in enumerate(distinct)}
        packs = {pack: at for at, pack in enumerate(self.packs())}
        document: canonical.Json = {
            "schema": layout.SCHEMA,
            "tree": self.tree,
            "small": small,
            "packs": list(packs),
            "chunks": [[chunk.digest, packs[chunk.pack], chunk.offset, chunk.length, chunk.size] for chunk in distinct],
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
            raise lying(place, reader.path, "it belongs to another tree", "map-mismatch")
        return reader.read(document)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise lying(place, reader.path, f"malformed: {error!r}"[:300], "map-invalid") from error


def longest(tree: Tree) -> int:
    """An upper bound in bytes for a map of the tree. Each chunk holds a small file or CHUNK_LEAST of a large one."""
    chunks = sum(2 + file.size // CHUNK_LEAST for file in tree.files())
    return 4096 + 256 * chunks


class _Reader:
    """Reads one map, and checks it against the manifest."""

    def __init__(self, tree: Tree, place: str) -> None:
        self.path = layout.map_path(tree.id)
        self._tree = tree
        self._place = place

    def read(self, document: dict[str, Any]) -> TreeMap:
        """The map in a JSON document."""
        small = _number(document["small"], CHUNK_MOST + 1)
        packs = [pack if is_hex_digest(pack) else self._refuse("a pack id is malformed") for pack in document["packs"]]
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
            self._refuse("a chunk is empty, or its digest is malformed")
        return Chunk(digest, packs[_number(pack, len(packs))], offset, length, size)

    def _groups(self, rows: list[list[Any]], content: ChunkLayout, found: list[Chunk]) -> Iterator[Group]:
        at = 0
        for count, number in rows:
            files = content.small[at : at + _number(count, len(content.small))]
            chunk = found[_number(number, len(found))]
            if not files or sum(file.size for file in files) != chunk.size:
                self._refuse("a group and its files differ in size")
            at += len(files)
            yield Group(files, chunk)
        if at != len(content.small):
            self._refuse("small files are missing")

    def _files(self, rows: list[list[Any]], content: ChunkLayout, found: list[Chunk]) -> Iterator[Large]:
        for file, numbers in zip(content.large, rows, strict=True):
            chunks = tuple(found[_number(number, len(found))] for number in numbers)
            if sum(chunk.size for chunk in chunks) != file.size:
                self._refuse("a file and its chunks differ in size")
            yield Large(file, chunks)

    def _refuse(self, cause: str) -> NoReturn:
        raise lying(self._place, self.path, cause, "map-invalid")


def _number(value: object, most: int) -> int:
    """The value, if it is an integer from 0 to `most`; raises ValueError for anything else, including booleans."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not an integer from 0 to {most}")
    return value
