"""A zip's headers and directory (PKWARE APPNOTE 6.3.10; section numbers below): encoded, and read strictly.

Python's `zipfile` reads what is encoded here. It cannot write it: it has no way to align an entry's data, and it
puts the clock and the maker's system into its records. Here the same entries give the same bytes.

Nor can it be the reader. It forgives what a program that maps entries must not forgive: entries that overlap, two of
one name, offsets that do not count from the file's start, names that differ between directory and local header.
Nothing of an entry's data is read here.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.layout import BLOCK

STORED: Final = 0
DEFLATED: Final = 8

LOCAL: Final = struct.Struct("<IHHHHHIIIHH")  # 4.3.7
CENTRAL: Final = struct.Struct("<IHHHHHHIIIHHHHHII")  # 4.3.12
END64: Final = struct.Struct("<IQHHIIQQQQ")  # 4.3.14
LOCATOR64: Final = struct.Struct("<IIQI")  # 4.3.15
END: Final = struct.Struct("<IHHHHIIH")  # 4.3.16

_MAX32: Final = 0xFFFFFFFF
_MAX16: Final = 0xFFFF
# Deflate may grow what it cannot shrink, and the local header is written before its size is known:
# entries this close to 4 GiB take the wide form at once.
_WIDE: Final = 0xF0000000
_EPOCH_DATE: Final = 0x0021  # 1980-01-01, the first day a zip can name
_UTF8: Final = 0x0800
_UNIX: Final = 3 << 8
_REGULAR: Final = 0o100000
# A signature is padded to a multiple of 8.
_MAX_PADDING: Final = 7
_MAX_COMMENT: Final = 0xFFFF
_MAX_DIRECTORY: Final = 64 << 20
_ENCRYPTED: Final = 1
_DESCRIPTOR: Final = 8


@dataclass(frozen=True, slots=True)
class ZipRecord:
    """One entry: what its local header and its directory record say. `offset` is the local header's."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    offset: int = 0
    mode: int = 0o644

    @property
    def wide(self) -> bool:
        """Whether its sizes stand in a zip64 field."""
        return self.size >= _WIDE

    def encode_local(self) -> bytes:
        """The local header, name and extra field."""
        name = self.name.encode()
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.packed) if self.wide else b""
        sizes = (_MAX32, _MAX32) if self.wide else (self.packed, self.size)
        fields = (self._version(), self._flags(), self.method, 0, _EPOCH_DATE, self.crc)
        return LOCAL.pack(0x04034B50, *fields, *sizes, len(name), len(extra)) + name + extra

    def encode_central(self) -> bytes:
        """The record in the directory at the end of the file."""
        name = self.name.encode()
        far = self.offset >= _MAX32
        values = ([self.size, self.packed] if self.wide else []) + ([self.offset] if far else [])
        extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
        sizes = (_MAX32, _MAX32) if self.wide else (self.packed, self.size)
        version = 45 if values else self._version()
        fields = (_UNIX | version, version, self._flags(), self.method, 0, _EPOCH_DATE, self.crc)
        rest = (len(name), len(extra), 0, 0, 0, (_REGULAR | self.mode) << 16, _MAX32 if far else self.offset)
        return CENTRAL.pack(0x02014B50, *fields, *sizes, *rest) + name + extra

    def _version(self) -> int:
        return 45 if self.wide else 20

    def _flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8


def check_path(name: str) -> None:
    """Refuses an entry's name that is no plain path below a folder; raises ApeError (`ape-spec`)."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise ApeError(f"asset name {name!r} is not a plain relative path", reason=ApeReason.SPEC)
    if len(name.encode()) > _MAX16:
        raise ApeError(f"asset name {name[:40]!r}... is too long", reason=ApeReason.SPEC)


def local_size(name: str, size: int) -> int:
    """How many bytes the local header of an entry takes."""
    return len(ZipRecord(name, STORED, 0, size, size).encode_local())


def encode_directory(entries: Sequence[ZipRecord], offset: int) -> bytes:
    """The central directory that starts at `offset`, with its end records. All offsets count from the file's start."""
    directory = b"".join(entry.encode_central() for entry in entries)
    return directory + _encode_end(len(entries), len(directory), offset)


def _encode_end(count: int, size: int, offset: int) -> bytes:
    wide = b""
    if count >= _MAX16 or size >= _MAX32 or offset >= _MAX32:
        wide = END64.pack(0x06064B50, END64.size - 12, _UNIX | 45, 45, 0, 0, count, count, size, offset)
        wide += LOCATOR64.pack(0x07064B50, 0, offset + size, 1)
    small = min(count, _MAX16)
    return wide + END.pack(0x06054B50, 0, 0, small, small, min(size, _MAX32), min(offset, _MAX32), 0)


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One zip entry. `head` is where its local header lies in the file, `offset` where its data does."""

    name: str
    offset: int
    packed: int
    size: int
    method: int
    mode: int
    crc: int
    head: int

    @property
    def deflated(self) -> bool:
        """Whether its data is compressed."""
        return self.method == DEFLATED

    @property
    def mappable(self) -> bool:
        """Whether a program can map its data from the file."""
        return self.method == STORED and self.offset % BLOCK == 0


@dataclass(frozen=True, slots=True)
class Directory:
    """All entries in the directory's order, none overlapping another, and where the directory lies."""

    entries: tuple[DirectoryEntry, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _End:
    """What the end records say: how many entries, where their directory is, and where the end records begin."""

    count: int
    size: int
    offset: int
    at: int


def read_directory(stream: BinaryIO, end: int, what: str, *, padded: bool = False) -> Directory | None:
    """The directory of the zip that ends at `end` of the file; None where none does.

    With `padded` up to seven zeros may lie behind it. Raises ApeError (`ape-altered`) for one that is not sound.
    """
    stream.seek(max(0, end - END.size - _MAX_COMMENT - _MAX_PADDING))
    base, tail = stream.tell(), stream.read(end - stream.tell())
    at = _find_end(tail, padded=padded)
    if at is None:
        return None
    found = _read_end(stream, tail, at, base, what)
    records = _read_records(stream, found, what)
    entries = tuple(_locate(stream, record, found.offset, what) for record in records)
    _check_apart(entries, what)
    return Directory(entries, found.offset, end)


def _find_end(tail: bytes, *, padded: bool) -> int | None:
    """Where the end record is whose comment, if any, reaches to the end."""
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if at + END.size > len(tail):
            continue
        behind = tail[at + END.size + END.unpack_from(tail, at)[-1] :]
        over = at + END.size + END.unpack_from(tail, at)[-1] > len(tail)
        if not over and (not behind or (padded and len(behind) <= _MAX_PADDING and not any(behind))):
            return at
    return None


def _read_end(stream: BinaryIO, tail: bytes, at: int, base: int, what: str) -> _End:
    _, disk, first_disk, here, count, size, offset, _ = END.unpack_from(tail, at)
    end = base + at
    locator = tail[at - LOCATOR64.size : at] if at >= LOCATOR64.size else b""
    if locator.startswith(b"PK\6\7"):
        _, disk, wide, _ = LOCATOR64.unpack(locator)
        end = wide
        if end + END64.size + LOCATOR64.size > base + at:
            _refuse(what, "its zip64 end record is out of reach")
        stream.seek(end)
        _, _, _, _, first_disk, _, here, count, size, offset = _unpack(END64, stream, b"PK\6\6", what)
    if disk or first_disk or here != count:
        _refuse(what, "a zip in several parts")
    if offset + size != end:
        _refuse(what, "its zip directory is not where its end says")
    if size > _MAX_DIRECTORY or count * CENTRAL.size > size:
        _refuse(what, f"a zip directory of {size} bytes for {count} entries")
    return _End(count, size, offset, end)


@dataclass(frozen=True, slots=True)
class _CentralRecord:
    """What the directory says of one entry; `raw` is its name as it is written there."""

    raw: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    head: int
    mode: int


def _read_records(stream: BinaryIO, end: _End, what: str) -> Iterator[_CentralRecord]:
    stream.seek(end.offset)
    data = stream.read(end.size)
    at = 0
    for _ in range(end.count):
        if not data.startswith(b"PK\1\2", at) or at + CENTRAL.size > len(data):
            _refuse(what, "its zip directory is broken")
        fields = CENTRAL.unpack_from(data, at)
        names, extras, comments = fields[10:13]
        start = at + CENTRAL.size
        at = start + names + extras + comments
        if at > len(data):
            _refuse(what, "its zip directory is broken")
        yield _decode(fields, data[start : start + names], data[start + names : start + names + extras], what)
    if at != len(data):
        _refuse(what, "its zip directory has more in it than it says")


def _decode(fields: Sequence[int], raw: bytes, extra: bytes, what: str) -> _CentralRecord:
    _, _, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, head = fields
    name = _decode_name(raw, flags)
    wide = iter(_wide_values(extra))
    try:
        size, packed, head = (next(wide) if value == _MAX32 else value for value in (size, packed, head))
    except (StopIteration, RuntimeError):
        _refuse(what, f"{name}: its sizes are missing")
    if flags & _ENCRYPTED:
        _refuse(what, f"{name} is encrypted")
    if disk not in {0, _MAX16} or (method == STORED and packed != size):
        _refuse(what, f"{name}: its record is broken")
    return _CentralRecord(raw, name, flags, method, crc, packed, size, head, attributes >> 16 & 0o777)


def _decode_name(raw: bytes, flags: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437" if not flags & _UTF8 else "latin-1")


def _wide_values(extra: bytes) -> tuple[int, ...]:
    """The values of the zip64 extra field (4.5.3), in order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + size // 8 * 8]
            return struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8])
        at += 4 + size
    return ()


def _locate(stream: BinaryIO, record: _CentralRecord, limit: int, what: str) -> DirectoryEntry:
    """The entry, after a look at its local header."""
    if record.head + LOCAL.size > limit:
        _refuse(what, f"{record.name} lies outside of the file")
    stream.seek(record.head)
    _, _, flags, method, _, _, crc, _, _, names, extras = _unpack(LOCAL, stream, b"PK\3\4", what, record.name)
    agrees = method == record.method and (flags & _DESCRIPTOR or crc == record.crc)
    if not agrees or stream.read(names) != record.raw:
        _refuse(what, f"{record.name}: its local header says otherwise than the directory")
    data = record.head + LOCAL.size + names + extras
    if data + record.packed > limit:
        _refuse(what, f"{record.name} lies outside of the file")
    sizes = (record.packed, record.size, record.method)
    return DirectoryEntry(record.name, data, *sizes, record.mode, record.crc, record.head)


def _check_apart(entries: Sequence[DirectoryEntry], what: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            _refuse(what, f"two entries are called {entry.name}")
        seen.add(entry.name)
    placed = sorted(entries, key=lambda entry: entry.head)
    for entry, following in itertools.pairwise(placed):
        if entry.offset + entry.packed > following.head:
            _refuse(what, f"the entries {entry.name} and {following.name} overlap")


def _unpack(record: struct.Struct, stream: BinaryIO, magic: bytes, what: str, name: str = "") -> tuple[int, ...]:
    data = stream.read(record.size)
    if len(data) != record.size or not data.startswith(magic):
        _refuse(what, f"no local header of {name}" if name else "its zip end record is broken")
    return record.unpack(data)


def _refuse(what: str, cause: str) -> NoReturn:
    raise ApeError(
        f"{what}: altered: {cause}",
        detail="A zip tool may have rewritten the file; get it again, or make it again with `forge package`.",
        reason=ApeReason.ALTERED,
    )
