"""Copying gigabytes: by the kernel, which shares the blocks where the file system can, over holes, on several cores.

source   |--data--|...hole...|------data------|
pieces   |---|----|          |----|-----|-----|     each read for its CRC and handed to copy_file_range
copy     |--data--|...hole...|------data------|     holes are left out, for the copy is of a new file

The CRC-32s of pieces are joined, so that pieces are summed at the same time and a hole is never read. Feeding n zero
bits to a CRC is a linear map over GF(2), a 32 x 32 matrix; its powers come by squaring (zlib's crc32_combine).
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320
_Matrix = tuple[int, ...]
OnProgress = Callable[[int], None]
"""Called with how many more bytes are done."""
_PIECE: Final = 32 << 20
_CHUNK: Final = 1 << 20
_MAX_WORKERS: Final = 4
# What the kernel says when it does not copy between these two: then we do.
_NOT_BY_KERNEL: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY}
)


@dataclass(frozen=True, slots=True)
class CopySpan:
    """Bytes of one open file that go to another: descriptors and offsets."""

    source: int
    at: int
    to: int
    offset: int
    size: int

    def part(self, start: int, size: int) -> CopySpan:
        """`size` bytes of it from `start` on."""
        return CopySpan(self.source, self.at + start, self.to, self.offset + start, size)


class CutShort(OSError):
    """The source has fewer bytes than it had."""


def copy_span(span: CopySpan, on_progress: OnProgress, *, checksum: bool) -> int:
    """Copies to a file that has nothing there yet; the CRC-32, or 0 where nobody asks. Raises OSError.

    Where the source's descriptor stands afterwards is not defined: looking for holes moves it.
    """
    pieces = list(_cut(span))
    crc = 0
    with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1), "forge-copy") as workers:
        try:
            tasks = [(piece, workers.submit(_copy, piece, checksum) if data else None) for piece, data in pieces]
            for piece, task in tasks:
                found = task.result() if task else crc_of_zeros(piece.size) if checksum else 0
                crc = join_crc(crc, found, piece.size) if checksum else 0
                on_progress(piece.size)
        except BaseException:
            workers.shutdown(wait=True, cancel_futures=True)
            raise
    return crc


def _cut(span: CopySpan) -> Iterator[tuple[CopySpan, bool]]:
    """The pieces, in order, and whether there is anything in them."""
    at = 0
    for start, end in _find_data(span):
        if start > at:
            yield span.part(at, start - at), False
        for piece in range(start, end, _PIECE):
            yield span.part(piece, min(_PIECE, end - piece)), True
        at = end
    if at < span.size:
        yield span.part(at, span.size - at), False


def _find_data(span: CopySpan) -> Iterator[tuple[int, int]]:
    """Where data lies, counted from the span's start."""
    at, end = span.at, span.at + span.size
    while at < end:
        try:
            start = os.lseek(span.source, at, os.SEEK_DATA)
            stop = os.lseek(span.source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO and os.fstat(span.source).st_size >= end:
                return
            yield at - span.at, span.size
            return
        if start >= end:
            return
        yield max(start, at) - span.at, min(stop, end) - span.at
        at = stop


def _copy(piece: CopySpan, checksum: bool) -> int:
    crc, done, by_kernel = 0, 0, hasattr(os, "copy_file_range")
    while done < piece.size:
        part = piece.part(done, min(_CHUNK, piece.size - done))
        data = b""
        if checksum or not by_kernel:
            data = _read(part)
            crc = zlib.crc32(data, crc) if checksum else 0
        if by_kernel:
            # All that is left at once where nothing has to be read: whole files are shared, not copied.
            by_kernel = _copy_by_kernel(part if checksum else piece.part(done, piece.size - done))
            if by_kernel and not checksum:
                return 0
        if not by_kernel:
            _write(part, data or _read(part))
        done += part.size
    return crc


def _copy_by_kernel(part: CopySpan) -> bool:
    """Whether the kernel did it."""
    done = 0
    while done < part.size:
        try:
            count = os.copy_file_range(
                part.source, part.to, part.size - done, offset_src=part.at + done, offset_dst=part.offset + done
            )
        except OSError as error:
            if error.errno in _NOT_BY_KERNEL:
                return False
            raise
        if not count:
            # The end of the file, or a file system that pretends: reading tells.
            return False
        done += count
    return True


def _read(part: CopySpan) -> bytes:
    pieces, done = [], 0
    while done < part.size:
        data = os.pread(part.source, part.size - done, part.at + done)
        if not data:
            raise CutShort(errno.EIO, "it became shorter while it was read")
        pieces.append(data)
        done += len(data)
    return b"".join(pieces)


def _write(part: CopySpan, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(part.to, data[done:], part.offset + done)


def join_crc(first: int, second: int, size: int) -> int:
    """The CRC of two runs of bytes from those of each; `size` is how many bytes the second one has."""
    matrix = _one_bit()
    for _ in range(3):
        matrix = _square(matrix)
    while size:
        if size & 1:
            first = _times(matrix, first)
        size >>= 1
        if size:
            matrix = _square(matrix)
    return first ^ second


def crc_of_zeros(size: int) -> int:
    """The CRC of `size` zero bytes."""
    block = zlib.crc32(bytes(1 << 16))
    crc, count = zlib.crc32(bytes(size % (1 << 16))), size % (1 << 16)
    # Doubling: the CRC of 2^k blocks from that of 2^(k-1).
    blocks, length = size >> 16, 1 << 16
    while blocks:
        if blocks & 1:
            crc, count = join_crc(crc, block, length), count + length
        block, length, blocks = join_crc(block, block, length), length * 2, blocks >> 1
    return crc


def _one_bit() -> _Matrix:
    """What one zero bit does to a CRC."""
    return (_POLYNOMIAL, *(1 << bit for bit in range(31)))


def _times(matrix: _Matrix, vector: int) -> int:
    total, row = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[row]
        vector >>= 1
        row += 1
    return total


def _square(matrix: _Matrix) -> _Matrix:
    return tuple(_times(matrix, column) for column in matrix)
