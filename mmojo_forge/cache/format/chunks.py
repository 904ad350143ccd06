"""Cuts a tree's content into chunks, and compresses each chunk.

    small files   under 64 KiB. Joined into groups in tree order. A group ends after a file whose digest is below a
                  bound that grows with the file's size: on average every 32 KiB, and always before 256 KiB.
    large files   Cut by FastCDC 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
                  Based Storage Systems", IEEE TPDS 31(9), 2020) with 16, 64 and 256 KiB.

Where a group or chunk ends depends on nearby content only. So a changed file changes its own group, or a few chunks,
and the next version of a tree shares the rest. Each small file lies in one chunk. Equal files are stored once, at the
first of them; empty files need no chunk.

A chunk is compressed to one Zstandard frame (RFC 8878) that declares its content's size. `Codec` refuses a frame
without a size, or with an unexpected one, before it allocates memory. The library writes no more than the declared
size, and refuses a frame with more content or with data after it. So a frame cannot be a decompression bomb.
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
    """Compresses and unpacks frames. It keeps one context per thread, because contexts are expensive to create."""

    def __init__(self, level: int = LEVEL) -> None:
        self._level = level
        self._local = threading.local()

    def compress(self, content: bytes | bytearray | memoryview) -> bytes:
        """One frame with its content's size. It has no checksum, because the BLAKE3 of the chunk is stronger."""
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=False, write_content_size=True)
            self._local.compressor = compressor
        packed: bytes = compressor.compress(content)
        return packed

    def unpack(self, frame: bytes, size: int, place: str, path: str) -> bytes:
        """The content, of exactly `size` bytes; raises CacheError (`cache-frame`)."""
        if content_size(frame, place, path) != size:
            raise lying(place, path, f"a frame does not hold {size:,} bytes", "cache-frame")
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
    """The content size in the frame's header; raises CacheError (`cache-frame`) where there is none."""
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise lying(place, path, "not compressed by Zstandard", "cache-frame") from error
    if header.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise lying(place, path, "a frame does not declare its content's size", "cache-frame")
    return int(header.content_size)


def longest_frame(size: int) -> int:
    """An upper bound for the frame of `size` bytes: a little more than ZSTD_compressBound."""
    return size + (size >> 8) + 128


SMALL = 64 << 10
GROUP_LEAST, GROUP_AVERAGE = 8 << 10, 32 << 10
CHUNK_LEAST, CHUNK_AVERAGE, CHUNK_MOST = 16 << 10, 64 << 10, 256 << 10


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """The distinct files of a tree, in tree order, sorted into empty, small and large ones."""

    empty: tuple[TreeEntry, ...]
    small: tuple[TreeEntry, ...]
    large: tuple[TreeEntry, ...]


def layout_of(tree: Tree, small: int = SMALL) -> ChunkLayout:
    """The tree's distinct files; raises TreeError (`tree-entry`) where one digest has two sizes."""
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
    """Groups of small files. Each group becomes one chunk."""
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
    """The chunks of a large file."""
    for chunk in FastCDC(CHUNK_AVERAGE, min_size=CHUNK_LEAST, max_size=CHUNK_MOST).cut_stream(stream):
        yield bytes(chunk.data)


def _ends(file: TreeEntry) -> bool:
    """Whether a group ends after the file. The chance is the file's size divided by the average group size.

    The digest alone decides, so that a change elsewhere in the tree does not move the end.
    """
    assert file.digest is not None
    return int(file.digest[:8], 16) * GROUP_AVERAGE < file.size << 32
