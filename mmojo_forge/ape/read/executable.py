"""What a native executable says of itself: the system it is for, and the note that forge's programs carry.

The note is an ELF note (System V gABI, chapter 5, "Notes") of a GPU module, or of a program that loads some: owner
"mmojo", type 1. Its text has a line KEY=VALUE for each fact:

    ggml     what ggml's headers hash to: a module fits programs of the same value only
    needs    the library of the driver, empty for a program
    driver   the least that the driver must be; not there if it does not matter
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format import elf, pe

# Enough for every header that tells: program headers and section tables stand at the start.
HEAD: Final = 65536
_MACHO_64: Final = 0xFEEDFACF
_MACHO_EXECUTE: Final = 2
_MACHO_CPUS: Final = MappingProxyType({0x01000007: "x86_64", 0x0100000C: "aarch64"})
_PT_NOTE: Final = 4
_NOTE_HEAD: Final = struct.Struct("<III")
_NOTE_OWNER: Final = b"mmojo\0"
_MAX_NOTE: Final = 1 << 16
_PROGRAM_HEADERS: Final = 1 << 14


def name_system(head: bytes, what: str) -> str:
    """The system that the executable starting with `head` runs on (Mach-O: Apple's <mach-o/loader.h>)."""
    if head[:4] == b"\x7fELF":
        return f"linux-{elf.parse_elf(head, what, ApeReason.SLICE).machine}"
    if head[:2] == b"MZ":
        pe.parse_pe(head, what, ApeReason.SLICE)
        return "windows-x86_64"
    if len(head) >= 16:
        magic, cpu, _, kind = struct.unpack_from("<IIII", head)
        if magic == _MACHO_64 and kind == _MACHO_EXECUTE and cpu in _MACHO_CPUS:
            return f"macos-{_MACHO_CPUS[cpu]}"
    raise ApeError(f"{what}: not an executable of a system that APEs know", reason=ApeReason.SLICE)


def check_slice(path: Path, system: str, what: str) -> None:
    """Refuses an executable that is not for `system`."""
    with content.open_input(path, "slice") as stream:
        found = name_system(stream.read(HEAD), what)
    if found != system:
        raise ApeError(f"{what}: for {found}, not for {system}", reason=ApeReason.SLICE)


def read_note(path: Path, what: str) -> dict[str, str]:
    """The facts, empty where there is no such note; raises ApeError (`ape-module`, `ape-input`)."""
    with content.open_input(path, what) as stream:
        image = elf.parse_elf(stream.read(_PROGRAM_HEADERS), f"{what} {path}", ApeReason.MODULE)
        for segment in image.segments:
            if segment.kind == _PT_NOTE and segment.file_size <= _MAX_NOTE:
                text = _find_note(_read_segment(stream, segment.offset, segment.file_size, f"{what} {path}"))
                if text:
                    return _parse_note(text)
    return {}


def _read_segment(stream: BinaryIO, offset: int, size: int, what: str) -> bytes:
    end = os.fstat(stream.fileno()).st_size
    if offset > end or size > end - offset:
        raise ApeError(f"{what}: it ends too early", reason=ApeReason.MODULE)
    stream.seek(offset)
    return stream.read(size)


def _find_note(data: bytes) -> bytes:
    return next((text for owner, kind, text in _notes(data) if owner == _NOTE_OWNER and kind == 1), b"")


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + _NOTE_HEAD.size <= len(data):
        owner_size, text_size, kind = _NOTE_HEAD.unpack_from(data, at)
        owner = at + _NOTE_HEAD.size
        text = owner + (owner_size + 3) // 4 * 4
        yield data[owner : owner + owner_size], kind, data[text : text + text_size]
        at = text + (text_size + 3) // 4 * 4


def _parse_note(text: bytes) -> dict[str, str]:
    lines = text.rstrip(b"\0").decode(errors="replace").splitlines()
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}
