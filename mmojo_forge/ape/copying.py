"""Copying gigabytes: by the kernel, which shares the blocks where the file system can, over holes, on several cores.

source   |--data--|...hole...|------data------|
pieces   |---|----|          |----|-----|-----|     each read for its CRC and handed to copy_file_range
copy     |--data--|...hole...|------data------|     holes are left out, for the copy is of a new file
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mmojo_forge.ape.checksum import crc_of_zeros, join_crc

OnProgress = Callable[[int], None]
"""Called with how many more bytes are done."""

_PIECE: Final = 32 << 20
_CHUNK: Final = 1 << 20
_MAX_WORKERS: Final = 4
# What the kernel says when it does not copy between these two: then we do.
_NOT_BY_KERNEL: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY}


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of one open file that go to another: descriptors and offsets."""

    source: int
    at: int
    to: int
    offset: int
    size: int

    def part(self, start: int, size: int) -> Span:
        """`size` bytes of it from `start` on."""
        return Span(self.source, self.at + start, self.to, self.offset + start, size)


class CutShort(OSError):
    """The source has fewer bytes than it had."""


def copy_span(span: Span, on_progress: OnProgress, *, checksum: bool) -> int:
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


def _cut(span: Span) -> Iterator[tuple[Span, bool]]:
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


def _find_data(span: Span) -> Iterator[tuple[int, int]]:
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


def _copy(piece: Span, checksum: bool) -> int:
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


def _copy_by_kernel(part: Span) -> bool:
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


def _read(part: Span) -> bytes:
    pieces, done = [], 0
    while done < part.size:
        data = os.pread(part.source, part.size - done, part.at + done)
        if not data:
            raise CutShort(errno.EIO, "it became shorter while it was read")
        pieces.append(data)
        done += len(data)
    return b"".join(pieces)


def _write(part: Span, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(part.to, data[done:], part.offset + done)
