"""The front of an APE: magic, PE headers inside a shell string, and the shell part (`start.sh`) filled in."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.layout import BLOCK
from mmojo_forge.ape.format.pe import HEADERS_AT, QUOTE

# With the second magic Windows, WSL and antivirus programs leave the file alone; APE's loaders know both.
MAGIC_PE: Final = b"MZqFpD='\n"
MAGIC_PLAIN: Final = b"jartsr='\n"
# APE's loaders look for printf'ed headers in these first bytes only.
LOADER_WINDOW: Final = 8192
_TEMPLATE: Final = Path(__file__).parents[1] / "start.sh"
_HEADER: Final = re.compile(rb"printf '((?:[^'\\]|\\[0-7]{1,3})*)'")
_OCTAL: Final = re.compile(rb"\\([0-7]{1,3})")


@dataclass(frozen=True, slots=True)
class ScriptSlice:
    """One slice as the shell part sees it. `offset` is a multiple of the block size."""

    name: str
    system: str
    sha256: str
    offset: int
    size: int
    features: tuple[str, ...]

    def encode(self) -> str:
        """Its line. Numbers have a fixed width, so that the script's length does not depend on where slices lie."""
        words = (
            f"ape_slice {self.name} {self.system} {self.sha256}",
            f"{self.offset // BLOCK:10d}",
            f"{self.size:12d}",
        )
        return " ".join((*words, *self.features))


def escape_header(header: bytes) -> str:
    """`header` as printf's format: octal escapes throughout, three digits, so that none runs into the next."""
    return "".join(f"\\{byte:03o}" for byte in header)


def encode_start(*, has_pe: bool) -> bytes:
    """The first 64 bytes: the magic, and the DOS header's one field that Windows reads, e_lfanew."""
    magic = MAGIC_PE if has_pe else MAGIC_PLAIN
    return magic.ljust(0x3C, b"\0") + struct.pack("<I", HEADERS_AT)


def encode_front(
    pe_headers: bytes, program: str, slices: Sequence[ScriptSlice], elf_headers: Mapping[str, bytes]
) -> bytes:
    """The file from offset 0 to the end of the shell part."""
    if QUOTE in pe_headers:
        raise ApeError(f"link {program}: a quote (27h) in the PE headers", reason=ApeReason.QUOTE)
    front = (
        encode_start(has_pe=bool(pe_headers))
        + pe_headers
        + b"\n'\n"
        + _fill_script(program, slices, elf_headers).encode("ascii")
    )
    if elf_headers and list(decode_headers(front[:LOADER_WINDOW])) != list(elf_headers.values()):
        raise ApeError(
            f"link {program}: the ELF headers do not lie within the first {LOADER_WINDOW} bytes",
            detail="shorten what stands before them in mmojo_forge/ape/start.sh",
            reason=ApeReason.SCRIPT,
        )
    return front


def _fill_script(program: str, slices: Sequence[ScriptSlice], elf_headers: Mapping[str, bytes]) -> str:
    headers = "\n".join(
        f"  {system})\n    exec 7<>\"$ape_o\" || exit 121\n    printf '{escape_header(header)}' >&7 || exit 121\n"
        "    exit 0\n    ;;"
        for system, header in elf_headers.items()
    )
    fills = {"#@HEADERS@": headers, "#@SLICES@": "\n".join(line.encode() for line in slices)}
    lines = []
    for line in _TEMPLATE.read_text(encoding="ascii").splitlines():
        filled = fills.get(line, line)
        if filled and (line in fills or not line.lstrip().startswith("#")):
            lines.append(filled.replace("@PROGRAM@", program))
    return "\n".join(lines) + "\n"


def decode_headers(front: bytes) -> list[bytes]:
    """The ELF headers that an APE loader finds in a file's first bytes, as the specification tells it to."""
    decoded = (_OCTAL.sub(lambda m: bytes([int(m[1], 8) & 255]), text) for text in _HEADER.findall(front))
    return [header for header in decoded if len(header) >= 64 and header.startswith(b"\x7fELF")]
