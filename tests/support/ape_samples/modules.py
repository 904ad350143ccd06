"""GPU modules as packaging sees them: ELF files of nothing but headers and the note that a module carries."""

from __future__ import annotations

import struct
from pathlib import Path

from mmojo_forge.ape.packaging.order import NamedFile


def make_elf(path: Path, text: str | None, *, owner: bytes = b"mmojo\0") -> Path:
    """An ELF of type DYN for x86-64 with one note whose text is `text`; with none where it is None."""
    note = b""
    if text is not None:
        data = text.encode() + b"\0"
        head = struct.pack("<III", len(owner), len(data), 1)
        note = head + owner.ljust(-len(owner) // 4 * -4, b"\0") + data.ljust(-len(data) // 4 * -4, b"\0")
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 120, 120, len(note), len(note), 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + segment + note)
    path.chmod(0o755)
    return path


def make_module(folder: Path, name: str = "ggml-test", version: str = "abc") -> NamedFile:
    """The folder of a module that is for this version of ggml, with a library of its own."""
    make_elf(folder / f"lib{name}.so", f"ggml={version}\nneeds=libtest.so.1\n")
    (folder / "libmath.so.1").write_bytes(b"math")
    return NamedFile(name, folder)


def make_hosts(folder: Path, version: str = "abc") -> NamedFile:
    """The folder of the programs that load modules of this version."""
    for level in ("v2", "v3"):
        make_elf(folder / f"mmojo-server-{level}", f"ggml={version}\nneeds=\n")
    return NamedFile("host", folder)
