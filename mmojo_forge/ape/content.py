"""Bytes of input files: what they are, and copying them while checking that they still are."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mmojo_forge.ape.error import ApeError, ApeReason

CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """The size and checksums of a run of bytes."""

    size: int
    crc: int
    sha256: str


def read_chunks(stream: BinaryIO, size: int | None = None) -> Iterator[bytes]:
    """The next `size` bytes of `stream`, or all up to its end, in pieces that fit in memory."""
    left = size
    while left is None or left > 0:
        chunk = stream.read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk


def measure_stream(stream: BinaryIO, size: int | None = None) -> Content:
    """What the next `size` bytes of `stream` are; fewer when it ends before."""
    sha256, crc, count = hashlib.sha256(), 0, 0
    for chunk in read_chunks(stream, size):
        sha256.update(chunk)
        crc = zlib.crc32(chunk, crc)
        count += len(chunk)
    return Content(count, crc, sha256.hexdigest())


def measure_bytes(data: bytes) -> Content:
    """What `data` is."""
    return Content(len(data), zlib.crc32(data), hashlib.sha256(data).hexdigest())


def open_input(path: Path, what: str) -> BinaryIO:
    """The regular file at `path`, open for reading."""
    try:
        if not path.is_file():
            raise ApeError(f"{what} {path}: there is no such file", reason=ApeReason.INPUT)
        return path.open("rb")
    except OSError as error:
        raise ApeError(f"{what} {path}: {error.strerror}", reason=ApeReason.INPUT) from error


def measure_file(path: Path, what: str) -> Content:
    """What the file at `path` is."""
    with open_input(path, what) as stream:
        return measure_stream(stream)


def copy_checked(path: Path, what: str, expected: Content) -> Iterator[bytes]:
    """The file's bytes, in pieces; fails at the end if they are not those that were measured before."""
    crc, count = 0, 0
    with open_input(path, what) as stream:
        for chunk in read_chunks(stream):
            crc = zlib.crc32(chunk, crc)
            count += len(chunk)
            yield chunk
    if (count, crc) != (expected.size, expected.crc):
        raise ApeError(f"{what} {path}: changed while it was being linked", reason=ApeReason.INPUT)
