"""Sources of bytes, and tar archives of them, the same for the same members.

A source is read once to be measured, perhaps again to be written, and never held whole. Python's `tarfile` could write
archives, but its bytes have changed between versions. A pax header stands before a member only where ustar has no
room (POSIX.1-2017, pax: "ustar Interchange Format"): names that are long or not ASCII, sizes from 8 GiB on.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from mmojo_forge.ape.errors import OciError, OciReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.copying import OnProgress
from mmojo_forge.ape.format.layout import round_up

# The second that SOURCE_DATE_EPOCH names in forge's builds; some programs take 0 for no time at all.
EPOCH: Final = 1
_BLOCK: Final = 512
_END: Final = bytes(2 * _BLOCK)
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_LONGEST_NAME: Final = 100
_LARGEST: Final = 8**11 - 1
_FILE: Final = b"0"
_FOLDER: Final = b"5"
_PAX: Final = b"x"


class ByteSource(Protocol):
    """Bytes that can be had again and again, the same each time."""

    @property
    def size(self) -> int:
        """How many they are."""

    def chunks(self) -> Iterator[bytes]:
        """All of them, in pieces that fit in memory."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        yield self.data


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of a file from `offset` on. With `crc`, reading them fails at the end if they are others."""

    path: Path
    offset: int
    size: int
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes; raises OciError (`oci-changed`), ApeError (`ape-input`)."""
        crc, left = 0, self.size
        with content.open_input(self.path, "image") as stream:
            stream.seek(self.offset)
            for chunk in content.read_chunks(stream, self.size):
                left -= len(chunk)
                crc = zlib.crc32(chunk, crc) if self.crc is not None else 0
                yield chunk
        if left or (self.crc is not None and crc != self.crc):
            raise OciError(
                f"read {self.path}: it is damaged, or changed while it was read",
                detail="`forge ape inspect` says which; get it again.",
                reason=OciReason.CHANGED,
            )


def whole_file(path: Path) -> FilePart:
    """All bytes of the file at `path`; raises ApeError (`ape-input`)."""
    with content.open_input(path, "image") as stream:
        return FilePart(path, 0, stream.seek(0, 2))


@dataclass(slots=True)
class Hashed:
    """Bytes of another source whose SHA-256 is known once they have all been read."""

    source: ByteSource
    sha256: str = field(default="", init=False)

    @property
    def size(self) -> int:
        """How many they are."""
        return self.source.size

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        sha256 = hashlib.sha256()
        for chunk in self.source.chunks():
            sha256.update(chunk)
            yield chunk
        self.sha256 = sha256.hexdigest()


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of another source; calls `on_progress` for each piece that is read."""

    source: ByteSource
    on_progress: OnProgress

    @property
    def size(self) -> int:
        """How many bytes they are."""
        return self.source.size

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        for chunk in self.source.chunks():
            self.on_progress(len(chunk))
            yield chunk


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file, or without a source a folder. `owner` is its user and its group."""

    name: str
    mode: int
    source: ByteSource | None = None
    owner: int = 0

    @property
    def size(self) -> int:
        """How many bytes follow its header."""
        return self.source.size if self.source else 0

    def encode(self) -> bytes:
        """What stands before its bytes."""
        name = (self.name if self.source else f"{self.name}/").encode()
        records = {}
        if len(name) > _LONGEST_NAME or not name.isascii():
            records["path"] = name
        if self.size > _LARGEST:
            records["size"] = b"%d" % self.size
        kind = _FILE if self.source else _FOLDER
        plain = name if "path" not in records else name.decode().encode("ascii", "replace")[:_LONGEST_NAME]
        header = _encode_header(plain, self.mode, self.owner, 0 if "size" in records else self.size, kind)
        return _encode_records(records) + header


@dataclass(frozen=True, slots=True)
class Tar:
    """An archive of these members, in their order; itself a source of bytes."""

    members: Sequence[TarMember]

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return sum(len(member.encode()) + round_up(member.size, _BLOCK) for member in self.members) + len(_END)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes."""
        for member in self.members:
            yield from encode_member(member)
        yield _END


def encode_member(member: TarMember) -> Iterator[bytes]:
    """The bytes of one member: header, content, padding."""
    yield member.encode()
    if member.source:
        yield from member.source.chunks()
        yield bytes(-member.size % _BLOCK)


def end_of_archive() -> bytes:
    """What stands behind the last member."""
    return _END


def _encode_header(name: bytes, mode: int, owner: int, size: int, kind: bytes) -> bytes:
    # The checksum counts itself as eight blanks.
    fields = [name, b"%07o" % mode, b"%07o" % owner, b"%07o" % owner, b"%011o" % size, b"%011o" % EPOCH, b" " * 8, kind]
    rest = (b"", b"ustar\0", b"00", b"", b"", b"%07o" % 0, b"%07o" % 0, b"")
    checksum = sum(_HEADER.pack(*fields, *rest))
    fields[6] = b"%06o\0 " % checksum
    return _HEADER.pack(*fields, *rest)


def _encode_records(records: dict[str, bytes]) -> bytes:
    if not records:
        return b""
    data = b"".join(_encode_record(name, value) for name, value in sorted(records.items()))
    return _encode_header(b"PaxHeaders/0", 0o644, 0, len(data), _PAX) + data.ljust(round_up(len(data), _BLOCK), b"\0")


def _encode_record(name: str, value: bytes) -> bytes:
    """`LENGTH NAME=VALUE` and a newline; the length counts itself."""
    rest = b" %s=%s\n" % (name.encode(), value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest
