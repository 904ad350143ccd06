"""A program file of any kind that forge makes, and the zip at its end: an APE, or a native executable.

    |0           the program itself           |end      entries of assets      |directory.start  directory|size
                                                                                           signature, if any|

What lies before `end` is the program and never changes; what lies behind it can be written anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format import elf, manifest, pe, script
from mmojo_forge.ape.format.manifest import Manifest
from mmojo_forge.ape.format.pe import PeImage
from mmojo_forge.ape.format.zip_directory import Directory, DirectoryEntry, read_directory
from mmojo_forge.ape.read import executable

APE_MAGICS: Final = (b"MZqFpD='", b"jartsr='", b"APEDBG='")
CORE: Final = ("ape/", "slices/")
_NOT_ZERO: Final = re.compile(rb"[^\0]")


class ProgramKind(StrEnum):
    """What starts a program."""

    APE = "ape"
    ELF = "elf"
    PE = "pe"
    MACHO = "mach-o"


@dataclass(frozen=True, slots=True)
class Program:
    """One program file. `system` is that of a native executable, or of an APE that was assimilated, else empty;
    `facts` is what forge's linker says of an APE (None for others); `head` its first bytes, `pe` its PE headers.
    A slice of an APE is one, too, that begins at `start` of the file; `size` and `end` count from there."""

    path: Path
    kind: ProgramKind
    system: str
    size: int
    end: int
    directory: Directory | None
    facts: Manifest | None
    head: bytes
    pe: PeImage | None
    start: int = 0

    @property
    def parts(self) -> tuple[DirectoryEntry, ...]:
        """The entries that are the program's own: its slices and launchers."""
        found = self.directory.entries if self.directory else ()
        return tuple(entry for entry in found if self.facts and entry.name.startswith(CORE))

    @property
    def assets(self) -> tuple[DirectoryEntry, ...]:
        """The entries that can be written anew."""
        found = self.directory.entries if self.directory else ()
        return tuple(entry for entry in found if not (self.facts and entry.name.startswith(CORE)))

    @property
    def starts_on_windows(self) -> bool:
        """Whether Windows starts it."""
        return self.pe is not None and not self.system.startswith("linux-")

    def signed_fields(self) -> tuple[tuple[int, int], ...]:
        """Offset and size of what signing changed before `end`."""
        if self.pe is None or self.pe.signature is None:
            return ()
        start = pe.HEADERS_AT if self.kind is ProgramKind.APE else int.from_bytes(self.head[0x3C:0x40], "little")
        return pe.find_signed_fields(self.pe, start)


def read_program(path: Path, what: str = "program") -> Program:
    """What the file at `path` is; raises ApeError for one that is no program, cut short or altered."""
    with content.open_input(path, what) as stream:
        head = stream.read(executable.HEAD)
        size = stream.seek(0, 2)
        is_ape = head.startswith(APE_MAGICS)
        image = _read_pe(head, str(path))
        directory = _read_zip(stream, image, size, str(path))
        facts = _read_facts(stream, directory, str(path))
        if facts is None and not is_ape:
            return _native(stream, path, head, size, directory)
        if directory is None:
            raise _truncated(path)
        system = "" if is_ape else _assimilated(head, path)
        return Program(
            path, ProgramKind.APE, system, size, _end_of_ape(directory, facts), directory, facts, head, image
        )


def _read_zip(stream: BinaryIO, image: PeImage | None, size: int, what: str) -> Directory | None:
    """The zip directory, which lies before a signature if there is one."""
    directory = read_directory(stream, size, what)
    if directory is None and image and image.signature:
        signed = image.signature
        if signed.size <= pe.MAX_SIGNATURE and signed.offset + signed.size == size:
            return read_directory(stream, signed.offset, what, padded=True)
    return directory


def _read_pe(head: bytes, what: str) -> PeImage | None:
    """The PE headers; those of an assimilated file too, which has lost its DOS header, and only that."""
    image = head
    if not head.startswith(b"MZ"):
        start = script.encode_start(has_pe=True)
        if head[pe.HEADERS_AT : pe.HEADERS_AT + 4] != b"PE\0\0":
            return None
        image = start + head[len(start) :]
    try:
        return pe.parse_pe(image, what)
    except ApeError:
        return None


def _read_facts(stream: BinaryIO, directory: Directory | None, what: str) -> Manifest | None:
    found = [entry for entry in directory.entries if entry.name == manifest.NAME] if directory else []
    return manifest.parse_manifest(content.read_entry_text(stream, found[0], what), what) if found else None


def _assimilated(head: bytes, path: Path) -> str:
    return f"linux-{elf.name_machine(head, str(path), ApeReason.NOT_AN_APE)}"


def _end_of_ape(directory: Directory, facts: Manifest | None) -> int:
    if facts is None:
        # Of another linker: all that its zip holds may be moved.
        return min((entry.head for entry in directory.entries), default=directory.start)
    return max(entry.offset + entry.packed for entry in directory.entries if entry.name.startswith(CORE))


def _native(stream: BinaryIO, path: Path, head: bytes, size: int, directory: Directory | None) -> Program:
    try:
        system = executable.name_system(head, str(path))
    except ApeError as error:
        raise ApeError(
            f"{path}: not a program",
            detail="It must be an APE, or an executable of Linux, Windows or macOS.",
            reason=ApeReason.NOT_A_PROGRAM,
        ) from error
    kind = {"linux": ProgramKind.ELF, "windows": ProgramKind.PE, "macos": ProgramKind.MACHO}[system.partition("-")[0]]
    if kind is ProgramKind.MACHO:
        return Program(path, kind, system, size, size, None, None, head, None)
    image = pe.parse_pe(head, str(path)) if kind is ProgramKind.PE else None
    own = elf.find_end(stream, head) if image is None else image.file_end
    limit = size
    if image and image.signature and image.signature.offset + image.signature.size == size:
        limit = image.signature.offset
    if directory is not None:
        limit = min((entry.head for entry in directory.entries), default=directory.start)
    following = _next_byte(stream, own, limit) if 0 < own < limit else b"?"
    if directory is None and own < limit == size and following in {b"", b"P"}:
        # Zeros alone, or the beginning of an entry: files were at its end.
        raise _truncated(path)
    # Zeros that align what follows are no part of the program.
    end = limit if following else own
    return Program(path, kind, system, size, end, directory, None, head, image)


def _next_byte(stream: BinaryIO, start: int, end: int) -> bytes:
    """The first byte from `start` on that is not zero; nothing if there is none before `end`."""
    stream.seek(start)
    for chunk in content.read_chunks(stream, end - start):
        if found := _NOT_ZERO.search(chunk):
            return found[0]
    return b""


def _truncated(path: Path) -> ApeError:
    return ApeError(
        f"{path}: truncated: no zip directory at its end",
        detail="the file was cut short or something was written behind its end; get it again",
        reason=ApeReason.TRUNCATED,
    )
