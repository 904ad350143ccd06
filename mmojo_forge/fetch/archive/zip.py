"""Zip archives (such as wheels): reads the central directory, checks it against local headers, and reads entries.

Format: PKWARE APPNOTE.TXT 6.3.10; comments cite its sections. Zip stores most values twice, and programs differ in
which copy they use. Here both must agree. Entries must not overlap: a zip bomb of a few megabytes reaches petabytes
by sharing compressed bytes between entries (D. Fifield, "A better zip bomb", 2019).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import MIB, ArchiveLimits, ArchiveMember, MemberKind
from mmojo_forge.fetch.archive.stream import file_chunks

MAGICS = (b"PK\3\4", b"PK\5\6")
SMALL = MIB  # the first read of an entry; most entries need no second one

_CENTRAL = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_DESCRIPTOR_FOLLOWS = 1 << 3
_PATCH = 1 << 5
_UTF8 = 1 << 11
_ZIP64_EXTRA = 1
_UNIX_HOSTS = (3, 19)  # 4.4.2.2: Unix, OS X
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_OWNER_EXECUTES = 0o100
_UNIX_KINDS = MappingProxyType(
    {
        0: MemberKind.FILE,
        0o100000: MemberKind.FILE,
        0o040000: MemberKind.DIRECTORY,
        0o120000: MemberKind.SYMLINK,
    }
)


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One entry of the central directory. `room` is the distance in bytes to the next entry or the directory."""

    member: ArchiveMember
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    offset: int
    room: int = 0


@dataclass(frozen=True, slots=True)
class _Directory:
    """Position and size of the central directory, and its number of entries."""

    entries: int
    offset: int
    size: int


def read_entries(descriptor: int, size: int, limits: ArchiveLimits) -> list[ZipEntry]:
    """The entries of a zip of `size` bytes, in the order of their offsets; raises ArchiveError."""
    directory = _find_directory(descriptor, size)
    if directory.entries > limits.members:
        raise ArchiveError(f"{directory.entries} entries", reason=Reason.TOO_MANY)
    if directory.size > directory.entries * (_CENTRAL.size + 3 * _FULL16):
        raise ArchiveError("a central directory larger than its entries", reason=Reason.CORRUPT)
    data = b"".join(file_chunks(descriptor, directory.offset, directory.size))
    entries, position = list[ZipEntry](), 0
    for _ in range(directory.entries):
        entry, position = _central_entry(data, position)
        entries.append(entry)
    if position != len(data):
        raise ArchiveError("the central directory holds more than its entries", reason=Reason.CORRUPT)
    return _with_room(entries, directory.offset)


def content(descriptor: int, entry: ZipEntry) -> Iterator[bytes]:
    """The verified content of an entry; raises ArchiveError unless size, checksum and local header agree."""
    head = os.pread(descriptor, min(entry.room, SMALL), entry.offset)
    start = _check_local(head, entry)
    if start + entry.packed > entry.room:
        raise ArchiveError(f"{entry.member.name}: overlaps what comes next", reason=Reason.CORRUPT)
    if len(head) >= start + entry.packed:
        packed = iter((head[start : start + entry.packed],))
    else:
        packed = file_chunks(descriptor, entry.offset + start, entry.packed)
    size = crc = 0
    for piece in _inflated(packed, entry) if entry.method == _DEFLATED else packed:
        size += len(piece)
        if size > entry.member.size:
            raise ArchiveError(f"{entry.member.name}: more content than its size", reason=Reason.CORRUPT)
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != entry.member.size or crc != entry.crc:
        raise ArchiveError(f"{entry.member.name}: content does not match its size and CRC", reason=Reason.CORRUPT)


def _find_directory(descriptor: int, size: int) -> _Directory:
    tail_offset = max(0, size - _END.size - _FULL16)
    tail = os.pread(descriptor, size - tail_offset, tail_offset)
    position = tail.rfind(b"PK\5\6")
    while position >= 0:
        if len(tail) - position >= _END.size:
            fields = _END.unpack_from(tail, position)
            if position + _END.size + fields[7] == len(tail):
                return _directory_at(descriptor, tail_offset + position, fields)
        position = tail.rfind(b"PK\5\6", 0, position)
    raise ArchiveError("no end of central directory", reason=Reason.TRUNCATED)


def _directory_at(descriptor: int, end: int, fields: tuple[int, ...]) -> _Directory:
    _, disk, first_disk, here, total, size, offset, _ = fields
    locator = os.pread(descriptor, _LOCATOR64.size, max(0, end - _LOCATOR64.size))
    if locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR64.size:
        _, _, end64, _ = _LOCATOR64.unpack(locator)
        record = os.pread(descriptor, _END64.size, end64) if end64 < end else b""
        if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
            raise ArchiveError("the zip64 end of central directory is missing", reason=Reason.CORRUPT)
        _, _, _, _, disk64, first64, here64, total64, size64, offset64 = _END64.unpack(record)
        narrow = ((total, total64, _FULL16), (size, size64, _FULL32), (offset, offset64, _FULL32))
        if any(short not in {full, long} for short, long, full in narrow):
            raise ArchiveError("the two ends of the central directory differ", reason=Reason.CORRUPT)
        disk, first_disk, here, total, size, offset, end = disk64, first64, here64, total64, size64, offset64, end64
    if disk or first_disk or here != total:
        raise ArchiveError("a part of a multi-disk archive", reason=Reason.UNSUPPORTED)
    if offset + size != end:
        raise ArchiveError("the central directory does not end where it should", reason=Reason.CORRUPT)
    return _Directory(total, offset, size)


def _central_entry(data: bytes, position: int) -> tuple[ZipEntry, int]:
    if len(data) - position < _CENTRAL.size or not data.startswith(b"PK\1\2", position):
        raise ArchiveError("a malformed central directory", reason=Reason.CORRUPT)
    fields = _CENTRAL.unpack_from(data, position)
    made_by, flags, method, crc, packed, size = fields[1], fields[3], fields[4], fields[7], fields[8], fields[9]
    name_end = position + _CENTRAL.size + fields[10]
    extra_end = name_end + fields[11]
    following = extra_end + fields[12]
    if following > len(data):
        raise ArchiveError("a malformed central directory", reason=Reason.CORRUPT)
    raw = data[position + _CENTRAL.size : name_end]
    name = _decode(raw, flags)
    extra = data[name_end:extra_end]
    size, packed, offset = _zip64(extra, (size, packed, fields[16]), name)
    if flags & _ENCRYPTED:
        raise ArchiveError(f"{name}: encrypted", reason=Reason.ENCRYPTED)
    if flags & _PATCH or method not in {_STORED, _DEFLATED}:
        raise ArchiveError(f"{name}: compression method {method} is not supported", reason=Reason.UNSUPPORTED)
    member = _member(name, size, made_by >> 8, fields[15] >> 16)
    return ZipEntry(member, raw, flags, method, crc, packed, offset), following


def _decode(raw: bytes, flags: int) -> str:
    """The decoded name, by 4.4.4 (bit 11) and appendix D.1; raises ArchiveError.

    Backslashes are refused, because only some programs treat them as separators.
    """
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"name {raw[:80]!r} is not UTF-8", reason=Reason.BAD_NAME) from error
    if "\\" in name:
        raise ArchiveError(f"name {name[:80]!r} has a backslash", reason=Reason.BAD_NAME)
    return name


def _member(name: str, size: int, host: int, mode: int) -> ArchiveMember:
    mode = mode if host in _UNIX_HOSTS else 0
    kind = _UNIX_KINDS.get(mode & 0o170000, MemberKind.DEVICE)
    if name.endswith("/") and kind is MemberKind.FILE:
        kind = MemberKind.DIRECTORY
    if kind is MemberKind.DIRECTORY and size:
        raise ArchiveError(f"{name}: directory with {size} bytes of content", reason=Reason.CORRUPT)
    return ArchiveMember(name, kind, size, bool(mode & _OWNER_EXECUTES))


def _zip64(extra: bytes, values: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Size, packed size and offset. Values that are 0xFFFFFFFF come from the zip64 extra field (4.5.3)."""
    if _FULL32 not in values:
        return values
    block = _extra_block(extra, _ZIP64_EXTRA, name)
    found, position = list[int](), 0
    for value in values:
        if value == _FULL32:
            if len(block) < position + 8:
                raise ArchiveError(f"{name}: zip64 sizes missing", reason=Reason.CORRUPT)
            value = int.from_bytes(block[position : position + 8], "little")  # noqa: PLW2901 (the wider copy)
            position += 8
        found.append(value)
    if any(value >= 1 << 63 for value in found):
        raise ArchiveError(f"{name}: impossible zip64 size", reason=Reason.TOO_BIG)
    return tuple(found)


def _extra_block(extra: bytes, wanted: int, name: str) -> bytes:
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if position + length > len(extra):
            break
        if tag == wanted:
            return extra[position : position + length]
        position += length
    raise ArchiveError(f"{name}: zip64 sizes missing", reason=Reason.CORRUPT)


def _with_room(entries: list[ZipEntry], directory: int) -> list[ZipEntry]:
    """The entries by offset, with their `room`; raises ArchiveError if two must overlap."""
    entries.sort(key=lambda entry: entry.offset)
    placed = list[ZipEntry]()
    for index, entry in enumerate(entries):
        room = (entries[index + 1].offset if index + 1 < len(entries) else directory) - entry.offset
        if room < _LOCAL.size + len(entry.raw_name) + entry.packed:
            raise ArchiveError(f"{entry.member.name}: overlaps what comes next", reason=Reason.CORRUPT)
        placed.append(replace(entry, room=room))
    return placed


def _check_local(head: bytes, entry: ZipEntry) -> int:
    """Offset of the content from the local header; raises ArchiveError unless header and central directory agree."""
    name = entry.member.name
    if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
        raise ArchiveError(f"{name}: no local header", reason=Reason.CORRUPT)
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(head)
    name_end = _LOCAL.size + name_length
    start: int = name_end + extra_length
    if len(head) < start:
        raise ArchiveError(f"{name}: local header overlaps what comes next", reason=Reason.CORRUPT)
    if head[_LOCAL.size : name_end] != entry.raw_name:
        raise ArchiveError(f"{name}: the local header has another name", reason=Reason.CORRUPT)
    if _FULL32 in {size, packed}:
        size, packed = _zip64(head[name_end:start], (size, packed), name)
    expected = (entry.crc, entry.packed, entry.member.size)
    # With bit 3 the sizes follow the content and are zero here (4.4.4), but some writers fill them in.
    unknown = (0, 0, 0) if flags & _DESCRIPTOR_FOLLOWS else expected
    differs = (flags ^ entry.flags) & (_ENCRYPTED | _PATCH | _UTF8) or method != entry.method
    if differs or (crc, packed, size) not in {expected, unknown}:
        raise ArchiveError(f"{name}: local header and central directory differ", reason=Reason.CORRUPT)
    return start


def _inflated(packed: Iterator[bytes], entry: ZipEntry) -> Iterator[bytes]:
    """The content of a deflated entry, in pieces of at most 1 MiB and at most one byte more than its size."""
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    bound = min(MIB, entry.member.size + 1)
    try:
        for chunk in packed:
            out = decoder.decompress(chunk, bound)
            yield out
            while decoder.unconsumed_tail or (len(out) == bound and not decoder.eof):
                out = decoder.decompress(decoder.unconsumed_tail, bound)
                yield out
            if decoder.unused_data:
                break
    except zlib.error as error:
        raise ArchiveError(f"{entry.member.name}: {error}", reason=Reason.CORRUPT) from error
    if not decoder.eof or decoder.unused_data:
        raise ArchiveError(f"{entry.member.name}: content does not end where it should", reason=Reason.CORRUPT)
