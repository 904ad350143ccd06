"""What zip entries hold, read in pieces and checked against their CRC."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from mmojo_forge.ape import content
from mmojo_forge.ape.directory import Entry
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.zipdir import DEFLATED, STORED

# Whatever is read whole (manifests, arguments, certificates) is a text that somebody wrote.
MAX_TEXT: Final = 16 << 20


def read_chunks(stream: BinaryIO, entry: Entry, what: str) -> Iterator[bytes]:
    """The entry's bytes, in pieces; raises ApeError (`ape-altered`) at the end if they are not what the zip says."""
    stream.seek(entry.offset)
    packed = content.read_chunks(stream, entry.packed)
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


def _inflate(packed: Iterator[bytes], what: str, entry: Entry) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in packed:
            data = chunk
            while data and not unpacker.eof:
                yield unpacker.decompress(data, content.CHUNK)
                data = unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error as error:
        raise ApeError(f"{what}: altered: {entry.name}: {error}", reason=ApeReason.ALTERED) from error


def copy_entry(stream: BinaryIO, entry: Entry, what: str, to: BinaryIO | None = None) -> str:
    """Reads the entry to its end, into `to` if given; its SHA-256. Raises ApeError (`ape-altered`)."""
    sha256 = hashlib.sha256()
    for chunk in read_chunks(stream, entry, what):
        sha256.update(chunk)
        if to is not None:
            to.write(chunk)
    return sha256.hexdigest()


def read_text(stream: BinaryIO, entry: Entry, what: str) -> bytes:
    """The bytes of an entry that must be small; raises ApeError (`ape-altered`)."""
    if entry.size > MAX_TEXT:
        raise ApeError(f"{what}: altered: {entry.name} is too large to be what it is called", reason=ApeReason.ALTERED)
    return b"".join(read_chunks(stream, entry, what))
