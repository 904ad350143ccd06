"""Zip records, byte for byte the same for the same entries (PKWARE APPNOTE 6.3.10; section numbers below).

Python's `zipfile` reads what this writes. It cannot write it: it has no way to align an entry's data, and it
puts the clock and the maker's system into its records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class ZipEntry:
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


def local_size(name: str, size: int) -> int:
    """How many bytes the local header of an entry takes."""
    return len(ZipEntry(name, STORED, 0, size, size).encode_local())


def encode_directory(entries: Sequence[ZipEntry], offset: int) -> bytes:
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
