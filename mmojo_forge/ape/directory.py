"""Reading a zip directory, strictly (PKWARE APPNOTE 6.3.10): all that a program which maps entries relies on.

Python's `zipfile` forgives what must not be forgiven here: entries that overlap, two of one name, offsets that do not
count from the file's start, names that differ between directory and local header. Nothing of an entry is read here.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.layout import BLOCK
from mmojo_forge.ape.zipdir import CENTRAL, DEFLATED, END, END64, LOCAL, LOCATOR64, STORED

# A signature is padded to a multiple of 8.
_MAX_PADDING: Final = 7
_MAX_COMMENT: Final = 0xFFFF
_MAX_DIRECTORY: Final = 64 << 20
_MAX32: Final = 0xFFFFFFFF
_MAX16: Final = 0xFFFF
_ENCRYPTED: Final = 1
_DESCRIPTOR: Final = 8
_UTF8: Final = 0x0800


@dataclass(frozen=True, slots=True)
class Entry:
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

    entries: tuple[Entry, ...]
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
class _Record:
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


def _read_records(stream: BinaryIO, end: _End, what: str) -> Iterator[_Record]:
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


def _decode(fields: Sequence[int], raw: bytes, extra: bytes, what: str) -> _Record:
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
    return _Record(raw, name, flags, method, crc, packed, size, head, attributes >> 16 & 0o777)


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


def _locate(stream: BinaryIO, record: _Record, limit: int, what: str) -> Entry:
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
    return Entry(record.name, data, *sizes, record.mode, record.crc, record.head)


def _check_apart(entries: Sequence[Entry], what: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            _refuse(what, f"two entries are called {entry.name}")
        seen.add(entry.name)
    placed = sorted(entries, key=lambda entry: entry.head)
    for one, other in itertools.pairwise(placed):
        if one.offset + one.packed > other.head:
            _refuse(what, f"the entries {one.name} and {other.name} overlap")


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
