"""What a cache has already of trees that are about to be pushed: the content of trees of the same names.

    names/<stem>/<tree id>   the newest few ──▶ their manifests and maps ──▶ groups, files, chunks and their packs

A map that lies leads to a tree that nobody can fetch, which is what whoever can write to a cache can do anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.treemap import Chunk, TreeMap
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.model.digest import TreeId, is_hex_digest

_VERSIONS = 4

GroupKey = tuple[str, ...]


class Reuse:
    """Chunks that the cache has: by the files of a group, by a large file's digest, by their own digest."""

    def __init__(self, transport: Transport, reader: CacheReader) -> None:
        self._transport = transport
        self._reader = reader
        self.groups: dict[GroupKey, Chunk] = {}
        self.files: dict[str, tuple[Chunk, ...]] = {}
        self.chunks: dict[str, Chunk] = {}

    def learn(self, names: Iterable[str], pool: ThreadPoolExecutor) -> None:
        """Look at the newest trees of these names. What cannot be read is passed over, but for a cache that fails."""
        folders = sorted({layout.names_folder(name) for name in names})
        trees = dict.fromkeys(tree for found in pool.map(self._newest, folders) for tree in found)
        maps = [found for found in pool.map(self._read, trees) if found is not None]
        packs = list(dict.fromkeys(pack for one in maps for pack in one.packs()))
        sizes = dict(
            zip(packs, pool.map(lambda pack: self._transport.size(layout.pack_path(pack)), packs), strict=True)
        )
        for one in maps:
            self._add(one, sizes)

    def _newest(self, folder: str) -> list[TreeId]:
        try:
            listed = [one for one in self._transport.entries(folder) if is_hex_digest(one.name)]
        except CacheError as error:
            if error.fault is CacheFault.FAILING:
                raise
            return []
        listed.sort(key=lambda one: (-one.modified, one.name))
        return [TreeId(one.name) for one in listed[:_VERSIONS]]

    def _read(self, tree: TreeId) -> TreeMap | None:
        try:
            return self._reader.read_map(self._reader.read_manifest(tree))
        except CacheError as error:
            if error.fault is CacheFault.FAILING:
                raise
            return None

    def _add(self, found: TreeMap, sizes: dict[str, int | None]) -> None:
        def is_there(chunk: Chunk) -> bool:
            return chunk.offset + chunk.length <= (sizes.get(chunk.pack) or 0)

        for group in found.groups:
            if is_there(group.chunk):
                self.groups.setdefault(tuple(str(file.digest) for file in group.files), group.chunk)
        for large in found.files:
            if all(is_there(chunk) for chunk in large.chunks):
                self.files.setdefault(str(large.file.digest), large.chunks)
        for chunk in found.chunks():
            if is_there(chunk):
                self.chunks.setdefault(chunk.digest, chunk)
