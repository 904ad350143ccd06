"""Writing items: as entries of a program's zip, as plain files, as entries of an ordinary zip."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.copying import CopySpan, CutShort, OnProgress, copy_span
from mmojo_forge.ape.format.layout import Piece, place_piece
from mmojo_forge.ape.format.zip_directory import STORED, ZipRecord, local_size
from mmojo_forge.ape.packaging.contents import InMemory, InProgram, OnDisk, PackageItem, PackageLayout
from mmojo_forge.ape.packaging.sources import stamp_of
from mmojo_forge.ape.write.entry_writer import EntryWriter, place_directory, record_of


def measure_program(layout: PackageLayout) -> int:
    """How many bytes the program's file will have."""
    if layout.unchanged:
        return layout.program.size
    at, placed = layout.program.end, [record_of(entry) for entry in layout.program.parts]
    for item in layout.inside:
        entry = item.entry()
        place = place_piece(at, Piece(local_size(entry.name, entry.size), entry.packed, item.align))
        placed.append(replace(entry, crc=0, offset=place.head))
        at = place.end
    directory, start = place_directory(placed, at)
    return start + len(directory)


def write_program(layout: PackageLayout, stream: BinaryIO, on_progress: OnProgress) -> None:
    """The program with its files at the end; raises ApeError, OSError."""
    program = layout.program
    end = program.size if layout.unchanged else program.end
    with content.open_input(program.path, "program") as source:
        before = os.fstat(source.fileno())
        copy_span(CopySpan(source.fileno(), program.start, stream.fileno(), 0, end), on_progress, checksum=False)
        stream.seek(end)
        if layout.unchanged:
            stream.truncate()
            return
        for at, size in program.signed_fields():
            stream.seek(at)
            stream.write(bytes(size))
        stream.seek(end)
        writer = EntryWriter(stream, [record_of(entry) for entry in program.parts])
        for item in layout.inside:
            add_item(writer, item, on_progress)
        writer.finish()
        if stamp_of(os.fstat(source.fileno())) != stamp_of(before):
            raise _changed(str(program.path))


def add_item(
    writer: EntryWriter, item: PackageItem, on_progress: OnProgress, *, name: str = "", align: int | None = None
) -> None:
    """Writes an item as an entry, at the end of what `writer` has; raises ApeError, OSError."""
    entry = item.entry(name)
    align = item.align if align is None else align
    match item.origin:
        case InMemory(data=data):
            facts = content.measure_bytes(data)
            writer.add_stored(entry.name, facts, [data], align=align, mode=entry.mode)
        case OnDisk():
            with _open_unchanged(item.origin, item) as source:
                writer.add_copied(entry, source, 0, on_progress, align=align)
        case InProgram(path=path, entry=old):
            with content.open_input(path, "program") as source:
                writer.add_copied(entry, source, old.offset, on_progress, align=align)


def write_file(item: PackageItem, stream: BinaryIO, on_progress: OnProgress) -> None:
    """Writes an item as a file of its own; raises ApeError, OSError."""
    match item.origin:
        case InMemory(data=data):
            stream.write(data)
        case OnDisk():
            with _open_unchanged(item.origin, item) as source:
                copy_span(CopySpan(source.fileno(), 0, stream.fileno(), 0, item.size), on_progress, checksum=False)
            stream.truncate(item.size)
        case InProgram(path=path, entry=entry):
            with content.open_input(path, "program") as source:
                if entry.method != STORED:
                    for chunk in content.read_entry(source, entry, str(path)):
                        stream.write(chunk)
                    return
                span = CopySpan(source.fileno(), entry.offset, stream.fileno(), 0, entry.size)
                if copy_span(span, on_progress, checksum=True) != entry.crc:
                    raise ApeError(f"{path}: altered: {entry.name} is not what its CRC says", reason=ApeReason.ALTERED)
            stream.truncate(item.size)


def write_archive(items: Sequence[tuple[str, PackageItem]], stream: BinaryIO, on_progress: OnProgress) -> None:
    """An ordinary zip of items under other names, nothing compressed; raises ApeError, OSError."""
    writer = EntryWriter(stream)
    for name, item in sorted(items, key=lambda row: row[0].encode()):
        plain = _unpacked(item)
        add_item(writer, plain, on_progress, name=name, align=1)
    writer.finish()


def measure_archive(items: Sequence[tuple[str, PackageItem]]) -> int:
    """How many bytes that zip has."""
    at, placed = 0, []
    for name, item in sorted(items, key=lambda row: row[0].encode()):
        placed.append(ZipRecord(name, STORED, 0, item.size, item.size, at))
        at += local_size(name, item.size) + item.size
    directory, start = place_directory(placed, at)
    return start + len(directory)


def _unpacked(item: PackageItem) -> PackageItem:
    """The same, but not compressed: what lies beside a program is text at most where it was compressed inside."""
    if not isinstance(item.origin, InProgram) or item.origin.entry.method == STORED:
        return item
    with content.open_input(item.origin.path, "program") as source:
        return replace(item, origin=InMemory(content.read_entry_text(source, item.origin.entry, str(item.origin.path))))


@contextmanager
def _open_unchanged(origin: OnDisk, item: PackageItem) -> Iterator[BinaryIO]:
    """The file, open; raises ApeError (`ape-input`) if it is not, before and after, what was looked at."""
    with content.open_input(origin.path, "package") as source:
        if stamp_of(os.fstat(source.fileno())) != origin.stamp:
            raise _changed(str(origin.path))
        try:
            yield source
        except CutShort as error:
            raise _changed(str(origin.path)) from error
        if stamp_of(os.fstat(source.fileno())) != origin.stamp:
            raise _changed(item.name)


def _changed(what: str) -> ApeError:
    return ApeError(f"package {what}: it changed while it was read", reason=ApeReason.INPUT)
