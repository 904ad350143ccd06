"""Bytes of files and of zip entries: what they are, read in pieces, with a check that they still are what they were."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.zip_directory import DEFLATED, STORED, DirectoryEntry

CHUNK: Final = 1 << 20
# Whatever is read whole (manifests, arguments, certificates) is a text that somebody wrote.
MAX_TEXT: Final = 16 << 20


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


def read_entry(stream: BinaryIO, entry: DirectoryEntry, what: str) -> Iterator[bytes]:
    """The entry's bytes, in pieces; raises ApeError (`ape-altered`) at the end if they are not what the zip says."""
    stream.seek(entry.offset)
    packed = read_chunks(stream, entry.packed)
    if entry.method == STORED:
        chunks = packed
    elif entry.method == DEFLATED:
        chunks = _inflate(packed, what, entry)
    else:
        raise ApeError(
            f"{what}: {entry.name} is compressed by method {entry.method}, which nobody needs",
            reason=ApeReason.ALTERED,
        )
    crc, count = 0, 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
        count += len(chunk)
        if count > entry.size:
            break
        yield chunk
    if (crc, count) != (entry.crc, entry.size):
        raise ApeError(f"{what}: altered: {entry.name} is not what its CRC says", reason=ApeReason.ALTERED)


def _inflate(packed: Iterator[bytes], what: str, entry: DirectoryEntry) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in packed:
            data = chunk
            while data and not unpacker.eof:
                yield unpacker.decompress(data, CHUNK)
                data = unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error as error:
        raise ApeError(f"{what}: altered: {entry.name}: {error}", reason=ApeReason.ALTERED) from error


def copy_entry(stream: BinaryIO, entry: DirectoryEntry, what: str, to: BinaryIO | None = None) -> str:
    """Reads the entry to its end, into `to` if given; its SHA-256. Raises ApeError (`ape-altered`)."""
    sha256 = hashlib.sha256()
    for chunk in read_entry(stream, entry, what):
        sha256.update(chunk)
        if to is not None:
            to.write(chunk)
    return sha256.hexdigest()


def read_entry_text(stream: BinaryIO, entry: DirectoryEntry, what: str) -> bytes:
    """The bytes of an entry that must be small; raises ApeError (`ape-altered`)."""
    if entry.size > MAX_TEXT:
        raise ApeError(f"{what}: altered: {entry.name} is too large to be what it is called", reason=ApeReason.ALTERED)
    return b"".join(read_entry(stream, entry, what))
