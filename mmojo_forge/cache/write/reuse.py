"""Finds chunks that a cache already has, in other versions of the trees to be pushed.

    names/<stem>/<tree id>   the newest few ──▶ their manifests and maps ──▶ groups, files, chunks and their packs

A false map can make a push refer to chunks that do not exist, so that the tree cannot be fetched. This adds no risk:
anyone who can write a false map can also damage the cache directly.
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

# Versions of each name to look at; older ones share less with the tree, and each costs two requests.
_VERSIONS = 4

GroupKey = tuple[str, ...]


class Reuse:
    """Chunks that the cache has, by the digests of a group's files, by a large file's digest, and by their digest."""

    def __init__(self, transport: Transport, reader: CacheReader) -> None:
        self._transport = transport
        self._reader = reader
        self.groups: dict[GroupKey, Chunk] = {}
        self.files: dict[str, tuple[Chunk, ...]] = {}
        self.chunks: dict[str, Chunk] = {}

    def learn(self, names: Iterable[str], pool: ThreadPoolExecutor) -> None:
        """Read the newest trees of these names. Skips unreadable trees; raises CacheError if the cache fails."""
        folders = sorted({layout.names_folder(name) for name in names})
        trees = dict.fromkeys(tree for found in pool.map(self._newest, folders) for tree in found)
        maps = [found for found in pool.map(self._read, trees) if found is not None]
        packs = list(dict.fromkeys(pack for tree_map in maps for pack in tree_map.packs()))
        sizes = dict(
            zip(packs, pool.map(lambda pack: self._transport.size(layout.pack_path(pack)), packs), strict=True)
        )
        for tree_map in maps:
            self._add(tree_map, sizes)

    def _newest(self, folder: str) -> list[TreeId]:
        try:
            listed = [entry for entry in self._transport.entries(folder) if is_hex_digest(entry.name)]
        except CacheError as error:
            if error.fault is CacheFault.FAILING:
                raise
            return []
        listed.sort(key=lambda entry: (-entry.modified, entry.name))
        return [TreeId(entry.name) for entry in listed[:_VERSIONS]]

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
