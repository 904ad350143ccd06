"""ELF as an APE needs it (System V gABI, chapters 4 and 5; APE specification, "ELF").

A launcher's image lies somewhere inside the container, yet kernels and APE's loader read program headers whose
offsets count from the start of the file. So the linker writes a second table of program headers with every offset
moved, and an ELF header that points at it; the image itself stays as it was and can be taken out whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.layout import BLOCK, round_up

HEADER_SIZE: Final = 64
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SHT_NOBITS: Final = 8
MACHINES: Final = MappingProxyType({62: "x86_64", 183: "aarch64"})

_ET_EXEC: Final = 2
_ET_DYN: Final = 3
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
_PT_GNU_STACK: Final = 0x6474E551
_PF_X: Final = 1
# APE loaders read the table into 4096 bytes.
_MAX_TABLE: Final = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int

    def encode(self) -> bytes:
        """Elf64_Phdr."""
        addresses = (self.offset, self.address, self.address)
        return _SEGMENT.pack(self.kind, self.flags, *addresses, self.file_size, self.memory_size, self.align)


@dataclass(frozen=True, slots=True)
class ElfImage:
    """The header and the program headers of an ELF executable."""

    machine: str
    kind: int
    entry: int
    segments: tuple[Segment, ...]

    def is_static(self) -> bool:
        """Whether it needs no dynamic linker."""
        return not any(segment.kind == _PT_INTERP for segment in self.segments)


def parse_elf(image: bytes, what: str, reason: ApeReason = ApeReason.LAUNCHER) -> ElfImage:
    """The ELF executable whose bytes (its start at least) are `image`."""
    machine = name_machine(image, what, reason)
    (_, kind, _, _, entry, table, _, _, _, entry_size, count, *_) = _HEADER.unpack_from(image)
    if entry_size != _SEGMENT.size or table + count * entry_size > len(image):
        raise ApeError(f"{what}: its program headers are out of reach", reason=reason)
    segments = []
    for index in range(count):
        fields = _SEGMENT.unpack_from(image, table + index * entry_size)
        segments.append(Segment(*fields[:4], *fields[5:]))
    return ElfImage(machine, kind, entry, tuple(segments))


def name_machine(header: bytes, what: str, reason: ApeReason = ApeReason.LAUNCHER) -> str:
    """The machine that an ELF executable is for, from its header alone."""
    if len(header) < HEADER_SIZE or header[:7] != b"\x7fELF\x02\x01\x01":
        raise ApeError(f"{what}: not a 64-bit little-endian ELF", reason=reason)
    (_, kind, machine, *_) = _HEADER.unpack_from(header)
    if machine not in MACHINES or kind not in {_ET_EXEC, _ET_DYN}:
        raise ApeError(f"{what}: not an ELF executable for a machine that APEs know", reason=reason)
    return MACHINES[machine]


def find_end(stream: BinaryIO, head: bytes) -> int:
    """Where the ELF at the start of `stream` ends by its own headers; 0 where they do not tell."""
    (*_, table, _, _, entry_size, count, section_size, sections, _) = _HEADER.unpack_from(head)
    (segments,) = struct.unpack_from("<Q", head, 32)
    if count * _SEGMENT.size + segments > len(head) or entry_size != _SEGMENT.size:
        return 0
    ends = [HEADER_SIZE, segments + count * _SEGMENT.size]
    for index in range(count):
        _, _, offset, _, _, size, _, _ = _SEGMENT.unpack_from(head, segments + index * _SEGMENT.size)
        ends.append(offset + size)
    if sections:
        if section_size != _SECTION.size:
            return 0
        stream.seek(table)
        data = stream.read(sections * _SECTION.size)
        if len(data) != sections * _SECTION.size:
            return 0
        rows = _SECTION.iter_unpack(data)
        ends += [table + len(data), *(row[4] + row[5] for row in rows if row[1] != _SHT_NOBITS)]
    return int(max(ends))


def move_segments(elf: ElfImage, base: int) -> tuple[Segment, ...]:
    """The program headers to use when the image lies at `base` of the container."""
    moved = []
    for segment in elf.segments:
        if segment.kind == _PT_GNU_STACK:
            moved.append(replace(segment, offset=0))
        elif segment.kind == _PT_LOAD and segment.memory_size:
            moved.append(_move_load(segment, base))
    return tuple(moved)


def _move_load(segment: Segment, base: int) -> Segment:
    if segment.file_size:
        return replace(segment, offset=segment.offset + base)
    # APE's loader maps nothing for the first, partial page of a segment that has no bytes in the file.
    start = segment.address // BLOCK * BLOCK
    return replace(segment, offset=0, address=start, memory_size=segment.memory_size + segment.address - start)


def check_launcher(elf: ElfImage, what: str) -> None:
    """Refuses what the APE specification's loaders would refuse or load wrongly, whatever their page size."""
    loads = [segment for segment in move_segments(elf, 0) if segment.kind == _PT_LOAD]
    kinds = {segment.kind for segment in elf.segments}
    end_of_last = 0
    faults = {
        "is not at a fixed address (ET_EXEC)": elf.kind != _ET_EXEC,
        "needs a dynamic linker": bool(kinds & {_PT_INTERP, _PT_DYNAMIC}),
        "has too many program headers": len(elf.segments) * _SEGMENT.size > _MAX_TABLE,
        "has its entry outside executable memory": not any(
            load.flags & _PF_X and load.address <= elf.entry < load.address + load.memory_size for load in loads
        ),
        # The loader leaves the file's next bytes in a bss that ends in its data's last page.
        "mixes data and bss in one segment": any(0 < load.file_size < load.memory_size for load in loads),
    }
    for load in loads:
        if (load.address - load.offset) % BLOCK:
            faults["has a segment whose address and offset differ modulo 64 KiB"] = True
        if load.address < end_of_last:
            faults["has segments that overlap in 64 KiB pages"] = True
        end_of_last = round_up(load.address + load.memory_size, BLOCK)
    for fault, holds in faults.items():
        if holds:
            raise ApeError(
                f"launcher {what}: {fault}",
                detail="launchers are built by mmojo_forge/ape/launcher/build.sh",
                reason=ApeReason.LAUNCHER,
            )


def encode_segments(segments: tuple[Segment, ...]) -> bytes:
    """The program header table."""
    return b"".join(segment.encode() for segment in segments)


def encode_header(elf: ElfImage, table: int, count: int) -> bytes:
    """The 64 bytes that make the container a native ELF whose program headers lie at `table`."""
    machine = next(number for number, name in MACHINES.items() if name == elf.machine)
    # OSABI FreeBSD: the one kernel that checks it; Linux does not.
    ident = b"\x7fELF\x02\x01\x01\x09".ljust(16, b"\0")
    sizes = (HEADER_SIZE, _SEGMENT.size, count, 0, 0, 0)
    return _HEADER.pack(ident, elf.kind, machine, 1, elf.entry, table, 0, 0, *sizes)
