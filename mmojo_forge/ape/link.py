"""Linking: slices, launchers and assets become one file.

    1. measure the slices and look at the launchers
    2. write the front once with zeros in it: its length is final, its numbers are not
    3. lay everything out (layout.py)
    4. write the front again, the launchers with their slice tables, the slices, the manifest, the assets, the directory

Memory is constant in the size of slices and assets; the launchers, tens of kilobytes, are held whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape import content, elf, executable, features, layout, manifest, pe, script, table
from mmojo_forge.ape.content import Content
from mmojo_forge.ape.elf import ElfImage, Segment
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.layout import Piece, Place
from mmojo_forge.ape.manifest import LauncherRecord, Manifest, SliceRecord
from mmojo_forge.ape.pe import PeImage
from mmojo_forge.ape.script import ScriptSlice
from mmojo_forge.ape.spec import LinkSpec, SliceSpec
from mmojo_forge.ape.table import TableSlice
from mmojo_forge.ape.writer import EntryWriter
from mmojo_forge.ape.zipdir import local_size

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
    with _replace_file(out) as stream:
        made = _write(inputs, plan, stream)
        size = stream.tell()
    return Linked(out, size, made)


def _read_inputs(spec: LinkSpec) -> _Inputs:
    slices = []
    for one in spec.slices:
        executable.check_slice(one.path, one.system, f"slice {one.name} ({one.path.name})")
        slices.append((one, content.measure_file(one.path, "slice")))
    launchers, pe_image = [], b""
    for system, path in sorted(spec.launchers.items()):
        with content.open_input(path, "launcher") as stream:
            image = stream.read()
        table.find_table(image, path.name)
        if system == _WINDOWS:
            pe_image = image
            continue
        parsed = elf.parse_elf(image, f"launcher {path.name}")
        elf.check_launcher(parsed, path.name)
        if not system.endswith(parsed.machine):
            raise ApeError(
                f"launcher {path.name}: for {parsed.machine}, not for {system}", reason=ApeReason.LAUNCHER
            )
        launchers.append(_Launcher(system, image, parsed))
    parsed_pe = pe.parse_pe(pe_image, "launcher for Windows") if pe_image else None
    return _Inputs(spec, tuple(slices), tuple(launchers), parsed_pe, pe_image)


def _plan(inputs: _Inputs) -> _Plan:
    """Lays the file out. The front's length depends on no number in it (fixed widths), so zeros do for measuring."""
    draft = _Plan((), (), inputs.pe.headers if inputs.pe else b"", 0, 0, (), ())
    at = layout.round_up(len(_encode_front(inputs, draft, draft=True)), 8)
    tables = []
    for launcher in inputs.launchers:
        tables.append(at)
        at += len(elf.encode_segments(elf.move_segments(launcher.elf, 0)))
    pe_headers, pe_data = b"", 0
    if inputs.pe:
        pe_data, pe_headers = pe.place_data(inputs.pe, at, "for Windows")
        at = pe_data + inputs.pe.data_end - inputs.pe.data_start
    front_size = at
    pieces = [Piece(local_size(one.entry, len(one.image)), len(one.image)) for one in inputs.launchers]
    pieces += [Piece(local_size(f"slices/{one.name}", facts.size), facts.size) for one, facts in inputs.slices]
    places = layout.place_pieces(at, pieces)
    count = len(inputs.launchers)
    segments = tuple(
        elf.move_segments(launcher.elf, place.data) for launcher, place in zip(inputs.launchers, places, strict=False)
    )
    return _Plan(segments, tuple(tables), pe_headers, pe_data, front_size, places[:count], places[count:])


def _encode_front(inputs: _Inputs, plan: _Plan, *, draft: bool = False) -> bytes:
    lines = [
        ScriptSlice(
            one.name, one.system, facts.sha256, 0 if draft else plan.slices[index].data, facts.size, one.features
        )
        for index, (one, facts) in enumerate(inputs.slices)
    ]
    headers = {
        launcher.system: elf.encode_header(launcher.elf, 0 if draft else plan.segment_tables[index], 0)
        if draft
        else _header(inputs, plan, index)
        for index, launcher in enumerate(inputs.launchers)
    }
    # The quotes of an unfinished header are no fault yet: only its length counts.
    pe_headers = bytes(len(plan.pe_headers)) if draft else plan.pe_headers
    return script.encode_front(pe_headers, inputs.spec.program, lines, headers)


def _header(inputs: _Inputs, plan: _Plan, index: int) -> bytes:
    return elf.encode_header(inputs.launchers[index].elf, plan.segment_tables[index], len(plan.segments[index]))


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
    for (one, facts), place in zip(inputs.slices, plan.slices, strict=True):
        chunks = content.copy_checked(one.path, "slice", facts)
        at = writer.add_stored(f"slices/{one.name}", facts, chunks, mode=0o755)
        assert at == place.data
        slices.append(SliceRecord(one.name, one.system, one.level, one.features, at, facts.size, facts.sha256))
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
            one.name,
            one.system,
            place.data,
            facts.size,
            facts.sha256,
            features.encode_features(one.system, one.features),
        )
        for (one, facts), place in zip(inputs.slices, plan.slices, strict=True)
    ]


def _build_front(inputs: _Inputs, plan: _Plan, slices: list[TableSlice]) -> bytes:
    """All bytes before the first entry: header, shell part, program headers, section data of the PE."""
    front = bytearray(_encode_front(inputs, plan))
    for at, segments in zip(plan.segment_tables, plan.segments, strict=True):
        front = front.ljust(at, b"\0") + elf.encode_segments(segments)
    if inputs.pe:
        start, end = inputs.pe.data_start, inputs.pe.data_end
        at = plan.pe_data + table.find_table(inputs.pe_image, "for Windows") - start
        encoded = table.encode_table(inputs.spec.program, at, bytes(64), slices)
        patched = table.patch_table(inputs.pe_image, encoded, "for Windows")
        front = front.ljust(plan.pe_data, b"\0") + patched[start:end]
    assert len(front) == plan.front_size
    return bytes(front)


def _patch_launcher(inputs: _Inputs, plan: _Plan, index: int, slices: list[TableSlice]) -> bytes:
    launcher = inputs.launchers[index]
    at = plan.launchers[index].data + table.find_table(launcher.image, launcher.system)
    header = _header(inputs, plan, index)
    encoded = table.encode_table(inputs.spec.program, at, header, slices)
    return table.patch_table(launcher.image, encoded, launcher.system)


@contextmanager
def _replace_file(out: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `out`, executable, when the block ends well; else nothing is left."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as stream:
            yield stream
        temporary.chmod(0o755)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ApeError(f"link {out}: {error.strerror or error}", reason=ApeReason.INPUT) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
