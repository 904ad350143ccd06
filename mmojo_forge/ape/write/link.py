"""Linking: slices, launchers and assets become one file.

    1. measure the slices and look at the launchers
    2. write the front once with zeros in it: its length is final, its numbers are not
    3. lay everything out (`format/layout.py`)
    4. write the front again, the launchers with their slice tables, the slices, the manifest, the assets, the directory

Memory is constant in the size of slices and assets; the launchers, tens of kilobytes, are held whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.content import Content
from mmojo_forge.ape.files.staging import replace_file
from mmojo_forge.ape.format import elf, layout, manifest, pe, script, slice_table
from mmojo_forge.ape.format.elf import ElfImage, Segment
from mmojo_forge.ape.format.layout import Piece, Place
from mmojo_forge.ape.format.manifest import LauncherRecord, Manifest, SliceRecord
from mmojo_forge.ape.format.pe import PeImage
from mmojo_forge.ape.format.script import ScriptSlice
from mmojo_forge.ape.format.slice_table import TableSlice
from mmojo_forge.ape.format.zip_directory import local_size
from mmojo_forge.ape.read import executable
from mmojo_forge.ape.write.entry_writer import EntryWriter
from mmojo_forge.ape.write.spec import LinkSpec, SliceSpec

_WINDOWS = "windows-x86_64"


@dataclass(frozen=True, slots=True)
class Linked:
    """What `link` made."""

    path: Path
    size: int
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class _Launcher:
    """An ELF launcher before it is placed."""

    system: str
    image: bytes
    elf: ElfImage

    @property
    def entry(self) -> str:
        return f"ape/launcher-{self.system}"


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What was read of the inputs. The slices' bytes stay in their files."""

    spec: LinkSpec
    slices: tuple[tuple[SliceSpec, Content], ...]
    launchers: tuple[_Launcher, ...]
    pe: PeImage | None
    pe_image: bytes


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where everything lies."""

    elf_headers: tuple[bytes, ...]
    segments: tuple[tuple[Segment, ...], ...]
    segment_tables: tuple[int, ...]
    pe_headers: bytes
    pe_data: int
    front_size: int
    launchers: tuple[Place, ...]
    slices: tuple[Place, ...]


def link(spec: LinkSpec, out: Path) -> Linked:
    """Makes the APE that `spec` orders at `out`, which is replaced whole or not touched."""
    inputs = _read_inputs(spec)
    plan = _plan(inputs)
    with replace_file(out, mode=0o755, what="link") as stream:
        made = _write(inputs, plan, stream)
        size = stream.tell()
    return Linked(out, size, made)


def _read_inputs(spec: LinkSpec) -> _Inputs:
    slices = []
    for given in spec.slices:
        executable.check_slice(given.path, given.system, f"slice {given.name} ({given.path.name})")
        slices.append((given, content.measure_file(given.path, "slice")))
    launchers, pe_image = [], b""
    for system, path in sorted(spec.launchers.items()):
        with content.open_input(path, "launcher") as stream:
            image = stream.read()
        slice_table.find_table(image, path.name)
        if system == _WINDOWS:
            pe_image = image
            continue
        parsed = elf.parse_elf(image, f"launcher {path.name}")
        elf.check_launcher(parsed, path.name)
        if not system.endswith(parsed.machine):
            raise ApeError(f"launcher {path.name}: for {parsed.machine}, not for {system}", reason=ApeReason.LAUNCHER)
        launchers.append(_Launcher(system, image, parsed))
    parsed_pe = pe.parse_pe(pe_image, "launcher for Windows") if pe_image else None
    return _Inputs(spec, tuple(slices), tuple(launchers), parsed_pe, pe_image)


def _plan(inputs: _Inputs) -> _Plan:
    """Lays the file out. The front's length depends on no number in it (fixed widths), so zeros do for measuring."""
    at = layout.round_up(len(_draft_front(inputs)), 8)
    tables = []
    for launcher in inputs.launchers:
        tables.append(at)
        at += len(elf.encode_segments(elf.move_segments(launcher.elf, 0)))
    pe_headers, pe_data = b"", 0
    if inputs.pe:
        pe_data, pe_headers = pe.place_data(inputs.pe, at, "for Windows")
        at = pe_data + inputs.pe.data_end - inputs.pe.data_start
    pieces = [
        Piece(local_size(launcher.entry, len(launcher.image)), len(launcher.image)) for launcher in inputs.launchers
    ]
    pieces += [Piece(local_size(f"slices/{given.name}", facts.size), facts.size) for given, facts in inputs.slices]
    places = layout.place_pieces(at, pieces)
    launchers, slices = places[: len(inputs.launchers)], places[len(inputs.launchers) :]
    segments = tuple(
        elf.move_segments(launcher.elf, place.data) for launcher, place in zip(inputs.launchers, launchers, strict=True)
    )
    headers = tuple(
        elf.encode_header(launcher.elf, table_at, len(moved))
        for launcher, table_at, moved in zip(inputs.launchers, tables, segments, strict=True)
    )
    return _Plan(headers, segments, tuple(tables), pe_headers, pe_data, at, launchers, slices)


def _draft_front(inputs: _Inputs) -> bytes:
    headers = [b"\x7fELF".ljust(elf.HEADER_SIZE, b"\0") for _ in inputs.launchers]
    return _encode_front(inputs, bytes(len(inputs.pe.headers) if inputs.pe else 0), headers, [0] * len(inputs.slices))


def _encode_front(inputs: _Inputs, pe_headers: bytes, headers: Sequence[bytes], offsets: Sequence[int]) -> bytes:
    lines = [
        ScriptSlice(given.name, given.system, facts.sha256, offset, facts.size, given.features)
        for (given, facts), offset in zip(inputs.slices, offsets, strict=True)
    ]
    systems = [launcher.system for launcher in inputs.launchers]
    return script.encode_front(pe_headers, inputs.spec.program, lines, dict(zip(systems, headers, strict=True)))


def _write(inputs: _Inputs, plan: _Plan, stream: BinaryIO) -> Manifest:
    writer = EntryWriter(stream)
    table_slices = _table_slices(inputs, plan)
    front = _build_front(inputs, plan, table_slices)
    stream.write(front)
    launchers = []
    for index, launcher in enumerate(inputs.launchers):
        image = _patch_launcher(inputs, plan, index, table_slices)
        facts = content.measure_bytes(image)
        at = writer.add_stored(launcher.entry, facts, [image], mode=0o755)
        assert at == plan.launchers[index].data
        launchers.append(LauncherRecord(launcher.system, at, facts.size, facts.sha256))
    slices = []
    for (given, facts), place in zip(inputs.slices, plan.slices, strict=True):
        chunks = content.copy_checked(given.path, "slice", facts)
        at = writer.add_stored(f"slices/{given.name}", facts, chunks, mode=0o755)
        assert at == place.data
        slices.append(SliceRecord(given.name, given.system, given.level, given.features, at, facts.size, facts.sha256))
    front_sha256 = hashlib.sha256(front[manifest.MUTABLE :]).hexdigest()
    made = Manifest(inputs.spec.program, tuple(slices), tuple(launchers), len(front), front_sha256)
    data = made.encode()
    writer.add_stored(manifest.NAME, content.measure_bytes(data), [data], align=1)
    for asset in inputs.spec.assets:
        writer.add_asset(asset)
    writer.finish()
    return made


def _table_slices(inputs: _Inputs, plan: _Plan) -> list[TableSlice]:
    return [
        TableSlice(
            given.name,
            given.system,
            place.data,
            facts.size,
            facts.sha256,
            slice_table.encode_features(given.system, given.features),
        )
        for (given, facts), place in zip(inputs.slices, plan.slices, strict=True)
    ]


def _build_front(inputs: _Inputs, plan: _Plan, slices: list[TableSlice]) -> bytes:
    """All bytes before the first entry: header, shell part, program headers, section data of the PE."""
    offsets = [place.data for place in plan.slices]
    front = bytearray(_encode_front(inputs, plan.pe_headers, plan.elf_headers, offsets))
    for at, segments in zip(plan.segment_tables, plan.segments, strict=True):
        front = front.ljust(at, b"\0") + elf.encode_segments(segments)
    if inputs.pe:
        start, end = inputs.pe.data_start, inputs.pe.data_end
        at = plan.pe_data + slice_table.find_table(inputs.pe_image, "for Windows") - start
        encoded = slice_table.encode_table(inputs.spec.program, at, bytes(64), slices)
        patched = slice_table.patch_table(inputs.pe_image, encoded, "for Windows")
        front = front.ljust(plan.pe_data, b"\0") + patched[start:end]
    assert len(front) == plan.front_size
    return bytes(front)


def _patch_launcher(inputs: _Inputs, plan: _Plan, index: int, slices: list[TableSlice]) -> bytes:
    launcher = inputs.launchers[index]
    at = plan.launchers[index].data + slice_table.find_table(launcher.image, launcher.system)
    encoded = slice_table.encode_table(inputs.spec.program, at, plan.elf_headers[index], slices)
    return slice_table.patch_table(launcher.image, encoded, launcher.system)
