"""Zstandard frames (RFC 8878) of known size, which cannot be made to unpack to more than that.

A frame that does not say its content's size, or says another one, is refused before anything is allocated for it; the
library writes no more than that size, and refuses a frame that has more, or has anything after it.
"""

from __future__ import annotations

import threading

import zstandard

from mmojo_forge.store.remote.failure import lying

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
