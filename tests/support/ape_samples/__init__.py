"""Executables made of bytes, for tests that link without a compiler: right headers, no code."""

from __future__ import annotations

import struct
from pathlib import Path

from mmojo_forge.ape.format import slice_table
from mmojo_forge.ape.write.spec import LinkSpec, SliceSpec

ELF_MACHINES = {"linux-x86_64": 62, "linux-aarch64": 183}


def placeholder() -> bytes:
    """An empty slice table, as a launcher carries it."""
    return slice_table.MAGIC + struct.pack("<I", slice_table.SIZE) + bytes(slice_table.SIZE - 20)


def make_elf(system: str, body: bytes = b"", *, kind: int = 2, extra_type: int | None = None) -> bytes:
    """An ELF with three segments as the launchers have them: header and data, code, bss."""
    data = placeholder() + body
    code_at = 64 + 4 * 56 + len(data)
    base = 0x400000
    segments = [
        (1, 4, 0, base, code_at, code_at),
        (1, 5, code_at, base + 0x100000 + code_at, 16, 16),
        (1, 6, code_at + 16, base + 0x200000 + code_at + 16, 0, 0x20000),
        (extra_type or 0x6474E551, 6, 0, 0, 0, 0),
    ]
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    entry = base + 0x100000 + code_at
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, ELF_MACHINES[system], 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    table_bytes = b"".join(
        struct.pack("<IIQQQQQQ", t, flags, offset, address, address, size, memory, 0x10000)
        for t, flags, offset, address, size, memory in segments
    )
    return header + table_bytes + data + b"\xcc" * 16


def make_pe(body: bytes = b"", *, entry: int = 0x1000, stamp: int = 0x27272727) -> bytes:
    """A PE32+ with a code section, a data section that holds `body`, and a bss."""
    data = (placeholder() + body).ljust(-(-(slice_table.SIZE + len(body)) // 512) * 512, b"\0")
    sections = [(b".text", 0x0127, 0x1000, 512, 0x400), (b".rdata", len(data), 0x2000, len(data), 0x600)]
    sections.append((b".bss", 0x1000, 0x20000, 0, 0))
    optional = bytearray(240)
    struct.pack_into("<HBBIIIII", optional, 0, 0x20B, 14, 0, 0x2700 + 0x27, 0x200, 0, entry, 0x1000)
    struct.pack_into("<QII", optional, 24, 0x140000000, 0x1000, 0x200)
    struct.pack_into("<II", optional, 56, 0x30000, 0x400)
    struct.pack_into("<H", optional, 68, 3)
    struct.pack_into("<I", optional, 108, 16)
    struct.pack_into("<II", optional, 112 + 6 * 8, 0x2000, 28)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), stamp, 0, 0, 240, 0x22)
    table_bytes = b"".join(struct.pack("<8sIIIIIIHHI", *section, 0, 0, 0, 0, 0x60000020) for section in sections)
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x78) + bytes(0x78 - 0x40)
    return (dos + coff + bytes(optional) + table_bytes).ljust(0x400, b"\0") + b"\xc3" * 512 + data


def make_macho(body: bytes = b"") -> bytes:
    """The start of a Mach-O executable for Apple silicon."""
    return struct.pack("<IIIIIIII", 0xFEEDFACF, 0x0100000C, 0, 2, 0, 0, 0, 0) + body


def make_slice(system: str, body: bytes) -> bytes:
    """An executable for `system` that differs by `body`."""
    if system.startswith("linux-"):
        return make_elf(system) + body
    return make_pe(body) if system.startswith("windows-") else make_macho(body)


def write_inputs(folder: Path, bodies: dict[str, bytes]) -> LinkSpec:
    """An order for slices named `system` or `system/level`, with all launchers, its files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = []
    for name, body in bodies.items():
        system, _, level = name.partition("/")
        path = folder / name.replace("/", "-")
        path.write_bytes(make_slice(system, body))
        slices.append(SliceSpec(system=system, path=path, level=level, features=("avx2",) if level == "v3" else ()))
    launchers = {"linux-x86_64": make_elf("linux-x86_64"), "linux-aarch64": make_elf("linux-aarch64")}
    launchers["windows-x86_64"] = make_pe()
    paths = {}
    for system, image in launchers.items():
        paths[system] = folder / f"launcher-{system}"
        paths[system].write_bytes(image)
    return LinkSpec(program="sample", slices=tuple(slices), launchers=paths)
