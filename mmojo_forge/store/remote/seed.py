"""Chunks out of trees that are here already: another version of what is fetched has most of it.

The other version's map, which the cache has too, says which chunks it was cut into; they are read from its files here,
and verified like those that arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mmojo_forge.model.tree import Entry
from mmojo_forge.store.remote.treemap import TreeMap

ReadAt = Callable[[Entry, int, int], bytes]
"""Some bytes of a file that is here: from which offset on, and how many. Nobody has to have verified them."""


class Seed:
    """The chunks of some trees that are here, by their BLAKE3; safe in several threads as far as `read_at` is."""

    def __init__(self, maps: Iterable[TreeMap], read_at: ReadAt) -> None:
        self._read_at = read_at
        self._places: dict[str, list[tuple[Entry, int, int]]] = {}
        for one in maps:
            for group in one.groups:
                self._places.setdefault(group.chunk.digest, [(file, 0, file.size) for file in group.files])
            for large in one.files:
                offset = 0
                for chunk in large.chunks:
                    self._places.setdefault(chunk.digest, [(large.file, offset, chunk.size)])
                    offset += chunk.size

    def content(self, digest: str) -> bytes | None:
        """The chunk's content, or what lies where it should be; None for one that is not here."""
        places = self._places.get(digest)
        return None if places is None else b"".join(self._read_at(*place) for place in places)
