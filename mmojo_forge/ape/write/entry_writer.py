"""Writing zip entries into a file, one after the other, from files of any size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.content import Content
from mmojo_forge.ape.files.copying import CopySpan, OnProgress, copy_span
from mmojo_forge.ape.format.layout import BLOCK, Piece, place_piece
from mmojo_forge.ape.format.pe import choose_size
from mmojo_forge.ape.format.zip_directory import (
    DEFLATED,
    STORED,
    DirectoryEntry,
    ZipRecord,
    encode_directory,
    local_size,
)
from mmojo_forge.ape.write.spec import Asset


@dataclass(slots=True)
class EntryWriter:
    """Appends entries to `stream` at its position, and keeps what the directory must say about them."""

    stream: BinaryIO
    entries: list[ZipRecord] = field(default_factory=list)

    def add_stored(
        self, name: str, facts: Content, chunks: Iterable[bytes], *, align: int = BLOCK, mode: int = 0o644
    ) -> int:
        """Writes an entry as it is, its data at a multiple of `align`; returns where the data starts."""
        entry = ZipRecord(name, STORED, facts.crc, facts.size, facts.size, mode=mode)
        entry, data = self._begin(entry, align)
        for chunk in chunks:
            self.stream.write(chunk)
        self.entries.append(entry)
        return data

    def add_copied(self, entry: ZipRecord, source: BinaryIO, at: int, on_progress: OnProgress, *, align: int) -> None:
        """Writes an entry whose packed bytes stand in `source` from `at` on; with a CRC of -1, it is found on the way.

        Raises OSError.
        """
        known = entry.crc >= 0
        entry, data = self._begin(entry if known else replace(entry, crc=0), align)
        self.stream.flush()
        span = CopySpan(source.fileno(), at, self.stream.fileno(), data, entry.packed)
        crc = copy_span(span, on_progress, checksum=not known)
        if not known:
            entry = replace(entry, crc=crc)
            self.stream.seek(entry.offset)
            self.stream.write(entry.encode_local())
        self.stream.seek(data + entry.packed)
        self.entries.append(entry)

    def _begin(self, entry: ZipRecord, align: int) -> tuple[ZipRecord, int]:
        """Writes the local header so that data follows at a multiple of `align`; the entry, and where its data is."""
        head = local_size(entry.name, entry.size)
        place = place_piece(self.stream.tell(), Piece(head, entry.packed, align))
        entry = replace(entry, offset=place.head)
        self.pad_to(place.head)
        self.stream.write(entry.encode_local())
        return entry, place.data

    def add_deflated(self, name: str, facts: Content, chunks: Iterable[bytes], *, mode: int = 0o644) -> None:
        """Writes an entry compressed. Its local header is written twice: the packed size is known only afterwards."""
        start = self.stream.tell()
        entry = ZipRecord(name, DEFLATED, facts.crc, 0, facts.size, start, mode)
        self.stream.write(entry.encode_local())
        data_start = self.stream.tell()
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        for chunk in chunks:
            self.stream.write(packer.compress(chunk))
        self.stream.write(packer.flush())
        end = self.stream.tell()
        entry = replace(entry, packed=end - data_start)
        self.stream.seek(start)
        self.stream.write(entry.encode_local())
        self.stream.seek(end)
        self.entries.append(entry)

    def add_asset(self, asset: Asset) -> None:
        """Writes a file: aligned and as it is when the program maps it, else compressed."""
        facts = content.measure_file(asset.path, "asset")
        chunks = content.copy_checked(asset.path, "asset", facts)
        mode = 0o755 if is_executable(asset.path) else 0o644
        if asset.mapped:
            self.add_stored(asset.name, facts, chunks, mode=mode)
        else:
            self.add_deflated(asset.name, facts, chunks, mode=mode)

    def pad_to(self, offset: int) -> None:
        """Fills with zeros up to `offset`."""
        gap = offset - self.stream.tell()
        while gap > 0:
            gap -= self.stream.write(bytes(min(gap, content.CHUNK)))

    def finish(self) -> None:
        """Writes the directory; nothing of the file lies behind it."""
        directory, at = place_directory(self.entries, self.stream.tell())
        self.pad_to(at)
        self.stream.write(directory)
        self.stream.truncate()


def place_directory(entries: Sequence[ZipRecord], end: int) -> tuple[bytes, int]:
    """The directory of entries that reach to `end`, and where it lies: so that the file can be signed for Windows."""
    directory = encode_directory(entries, end)
    size = choose_size(end + len(directory))
    at = size - len(directory)
    return (encode_directory(entries, at) if at != end else directory), at


def is_executable(path: Path) -> bool:
    """Whether the file's owner may execute it: the one mode bit that an entry keeps."""
    return bool(path.stat().st_mode & 0o100)


def record_of(entry: DirectoryEntry) -> ZipRecord:
    """An entry that was read, as it is written again: without times, comments and extra fields."""
    mode = 0o755 if entry.mode & 0o100 else 0o644
    return ZipRecord(entry.name, entry.method, entry.crc, entry.packed, entry.size, entry.head, mode)
