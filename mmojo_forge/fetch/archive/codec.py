"""Compression: detects the format of a stream and decompresses it, with bounds on ratio and on memory per step.

Decoders run incrementally with a bound on each output, so that an archive bomb costs one chunk and not all memory.
A stream that stops before its end mark is truncated, even if its decoder reports no error.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

import zstandard

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import MIB, ArchiveLimits

OUTPUT = MIB
XZ_MEMORY = 512 * MIB
ZSTD_WINDOW = 128 * MIB
# The zstd decoder cannot bound its output, so the input is bounded instead. 2 KiB unpack to at most 64 MiB:
# 512 run-length blocks of 128 KiB.
ZSTD_INPUT = 2048

_FAILURES = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)


class _Decoder(Protocol):
    """The decoder of one frame, member or stream. `decode` may keep input for the next call."""

    input_bytes: int

    def decode(self, data: bytes) -> bytes:
        """The output for the kept input and `data`, or the first part of it."""

    @property
    def finished(self) -> bool:
        """Whether the decoder has seen the end mark."""

    @property
    def hungry(self) -> bool:
        """Whether the decoder needs more input to produce output."""

    @property
    def rest(self) -> bytes:
        """The input after the end mark."""


class _Gzip:
    input_bytes = 1 << 16

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._full = False

    def decode(self, data: bytes) -> bytes:
        out = self._decoder.decompress(self._decoder.unconsumed_tail + data, OUTPUT)
        self._full = len(out) == OUTPUT
        return out

    @property
    def finished(self) -> bool:
        return self._decoder.eof

    @property
    def hungry(self) -> bool:
        return not self._full and not self._decoder.unconsumed_tail

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


class _Buffered:
    """bz2 and xz. Both decoders have the same interface, and keep input themselves."""

    input_bytes = 1 << 16

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder

    def decode(self, data: bytes) -> bytes:
        return self._decoder.decompress(data, OUTPUT)

    @property
    def finished(self) -> bool:
        return self._decoder.eof

    @property
    def hungry(self) -> bool:
        return self._decoder.needs_input

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


class _Zstd:
    input_bytes = ZSTD_INPUT
    hungry = True

    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()

    def decode(self, data: bytes) -> bytes:
        return self._decoder.decompress(data)

    @property
    def finished(self) -> bool:
        return self._decoder.eof

    @property
    def rest(self) -> bytes:
        return self._decoder.unused_data


_DECODERS: Mapping[str, Callable[[], _Decoder]] = MappingProxyType(
    {
        "gz": _Gzip,
        "bz2": lambda: _Buffered(bz2.BZ2Decompressor()),
        "xz": lambda: _Buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)),
        "zst": _Zstd,
    }
)


def detect(head: bytes) -> str | None:
    """The compression of a stream that starts with `head`: gz, bz2, xz, zst, or None."""
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if head.startswith(b"BZh") and head[4:10] in {b"1AY&SY", b"\x17rE8P\x90"}:
        return "bz2"
    if head[1:4] == b"\xb5\x2f\xfd" and head[:1] == b"\x28":
        return "zst"
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a skippable frame, as pzstd begins with
        return "zst"
    return None


def unpacked(chunks: Iterator[bytes], compression: str | None, limits: ArchiveLimits) -> Iterator[bytes]:
    """The decompressed stream; raises ArchiveError if it is corrupt, truncated or unpacks to too many bytes."""
    if compression is None:
        yield from chunks
        return
    packed = size = 0

    def counted() -> Iterator[bytes]:
        nonlocal packed
        for chunk in chunks:
            packed += len(chunk)
            yield chunk

    for piece in _frames(counted(), _DECODERS[compression]):
        size += len(piece)
        if size > limits.allowed_output(packed):
            raise ArchiveError(f"{packed} packed bytes unpack to over {size}", reason=Reason.RATIO)
        yield piece


def _frames(chunks: Iterator[bytes], make: Callable[[], _Decoder]) -> Iterator[bytes]:
    """The content of consecutive frames in `chunks`. Zero bytes may pad the space between frames."""
    decoder: _Decoder | None = None
    for chunk in chunks:
        position = 0
        while position < len(chunk):
            if decoder is None:
                if chunk[position] == 0:
                    position += 1
                    continue
                decoder = make()
            data = chunk[position : position + decoder.input_bytes]
            yield from _step(decoder, data)
            position += len(data)
            if decoder.finished:
                position -= len(decoder.rest)  # `rest` is within `data`, because _step leaves no kept input
                decoder = None
    if decoder is not None:
        raise ArchiveError("the compressed stream ends early", reason=Reason.TRUNCATED)


def _step(decoder: _Decoder, data: bytes) -> Iterator[bytes]:
    """All output of the decoder for `data`."""
    while not decoder.finished:
        try:
            out = decoder.decode(data)
        except _FAILURES as error:
            raise ArchiveError(f"the compressed stream is corrupt: {error}", reason=Reason.CORRUPT) from error
        if out:
            yield out
        if decoder.hungry:
            return
        data = b""
