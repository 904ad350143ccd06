"""Which system a native executable is for, from its first bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from mmojo_forge.ape import content, elf, pe
from mmojo_forge.ape.error import ApeError, ApeReason

# Enough for every header that tells: program headers and section tables stand at the start.
HEAD: Final = 65536
_MACHO_64: Final = 0xFEEDFACF
_MACHO_EXECUTE: Final = 2
_MACHO_CPUS: Final = {0x01000007: "x86_64", 0x0100000C: "aarch64"}


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
