"""What a tree's content is cut into: groups of small files, and content-defined chunks of large ones.

    small (under 64 KiB)   joined in tree order; a group ends after a file whose digest falls below a bound that grows
                           with the file, so that about every 32 KiB there is an end, and always before 256 KiB
    large                  FastCDC 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
                           Based Storage Systems", IEEE TPDS 31(9), 2020) with 16, 64 and 256 KiB

A file that changes changes its own group, or the few chunks around the change; ends depend on nothing else, so that the
next version of a tree has the rest in common. Each small file lies in one chunk: whoever unpacks that has all of it.
Every content occurs once, where it occurs first; empty files need no chunk.

Zstandard frames (RFC 8878) of known size, which cannot be made to unpack to more than that.

A frame that does not say its content's size, or says another one, is refused before anything is allocated for it; the
library writes no more than that size, and refuses a frame that has more, or has anything after it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard
from pyfastcdc import FastCDC

from mmojo_forge.cache.failure import lying
from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import Tree, TreeEntry, TreeError

LEVEL = 2


class Codec:
    """Compresses and unpacks, with one context per thread; they are costly to make."""

    def __init__(self, level: int = LEVEL) -> None:
        self._level = level
        self._local = threading.local()

    def compress(self, content: bytes | bytearray | memoryview) -> bytes:
        """One frame, with its content's size and without a checksum: BLAKE3 says more."""
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=False, write_content_size=True)
            self._local.compressor = compressor
        packed: bytes = compressor.compress(content)
        return packed

    def unpack(self, frame: bytes, size: int, place: str, path: str) -> bytes:
        """The content, of exactly `size` bytes; raises CacheError (`cache-frame`)."""
        if content_size(frame, place, path) != size:
            raise lying(place, path, f"a frame is not of {size:,} bytes", "cache-frame")
        return self._unpack(frame, place, path)

    def unpack_at_most(self, frame: bytes, most: int, place: str, path: str) -> bytes:
        """The content, of at most `most` bytes; raises CacheError (`cache-too-large`, `cache-frame`)."""
        if content_size(frame, place, path) > most:
            raise lying(place, path, f"unpacks to more than {most:,} bytes", "cache-too-large")
        return self._unpack(frame, place, path)

    def _unpack(self, frame: bytes, place: str, path: str) -> bytes:
        decompressor = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor()
        try:
            content: bytes = decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise lying(place, path, f"damaged: {error}", "cache-frame") from error
        return content


def content_size(frame: bytes, place: str, path: str) -> int:
    """What the frame's header says that it unpacks to; raises CacheError (`cache-frame`)."""
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise lying(place, path, "not compressed by Zstandard", "cache-frame") from error
    if header.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise lying(place, path, "a frame does not say its size", "cache-frame")
    return int(header.content_size)


def longest_frame(size: int) -> int:
    """The longest frame that `size` bytes compress to: ZSTD_compressBound, and some."""
    return size + (size >> 8) + 128


SMALL = 64 << 10
GROUP_LEAST, GROUP_AVERAGE = 8 << 10, 32 << 10
CHUNK_LEAST, CHUNK_AVERAGE, CHUNK_MOST = 16 << 10, 64 << 10, 256 << 10


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """The files of a tree that have content, each content once, in tree order: those that are empty, small, large."""

    empty: tuple[TreeEntry, ...]
    small: tuple[TreeEntry, ...]
    large: tuple[TreeEntry, ...]


def layout_of(tree: Tree, small: int = SMALL) -> ChunkLayout:
    """The tree's contents; raises TreeError (`tree-entry`) where one digest has two sizes."""
    seen: dict[BlobDigest, int] = {}
    parts: tuple[list[TreeEntry], list[TreeEntry], list[TreeEntry]] = ([], [], [])
    for entry in tree.files():
        assert entry.digest is not None
        size = seen.get(entry.digest)
        if size is not None and size != entry.size:
            raise TreeError(f"read tree {tree.id}: {entry.digest} has two sizes", reason="tree-entry")
        if size is None:
            seen[entry.digest] = entry.size
            parts[0 if not entry.size else 1 if entry.size < small else 2].append(entry)
    return ChunkLayout(*(tuple(part) for part in parts))


def groups(files: tuple[TreeEntry, ...]) -> Iterator[tuple[TreeEntry, ...]]:
    """Small files, joined into groups."""
    group: list[TreeEntry] = []
    size = 0
    for file in files:
        if size + file.size > CHUNK_MOST:
            yield tuple(group)
            group, size = [], 0
        group.append(file)
        size += file.size
        if size >= GROUP_LEAST and _ends(file):
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """A large file, in chunks."""
    for chunk in FastCDC(CHUNK_AVERAGE, min_size=CHUNK_LEAST, max_size=CHUNK_MOST).cut_stream(stream):
        yield bytes(chunk.data)


def _ends(file: TreeEntry) -> bool:
    """Whether a group ends after the file: with a chance of its size to the average, told from its digest alone."""
    assert file.digest is not None
    return int(file.digest[:8], 16) * GROUP_AVERAGE < file.size << 32
