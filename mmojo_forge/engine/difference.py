"""Finds where two trees differ: the file, the first differing byte, and the section or member that contains it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.extras import has_extra
from mmojo_forge.model.tree import Tree, TreeEntry

_CHUNK = 1 << 20
_ARCHIVE = b"!<arch>\n"
_MEMBER_HEADER = 60
# ELF, PE, and Mach-O in both byte orders, for 32 and 64 bits, and with several processors.
_EXECUTABLE = (
    *(b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe"),
    *(b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"),
)
_MEMBER_END = b"`\n"


class DifferenceKind(StrEnum):
    """How a path differs."""

    MISSING = "missing"
    ADDED = "added"
    KIND = "kind"
    TARGET = "target"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs. `path` is empty for a tree that is a single file.

    `offset` is the first byte that differs; None if the content is equal or there is none. `section` names the part
    of the file that contains the byte: a section of an executable, a member of an archive, or a slice of an APE.
    """

    path: str
    kind: DifferenceKind
    offset: int | None = None
    section: str = ""

    def __str__(self) -> str:
        place = f" at offset {self.offset:#x}" if self.offset is not None else ""
        return f"{self.path or 'the file'}: {self.kind.value}{place}{f' in {self.section}' if self.section else ''}"


def differing_paths(expected: Tree, got: Tree) -> list[str]:
    """The paths whose manifest entries differ, sorted. No content is read."""
    left = {entry.path: entry for entry in expected.entries}
    right = {entry.path: entry for entry in got.entries}
    return sorted(path for path in left.keys() | right.keys() if left.get(path) != right.get(path))


def compare_trees(expected: Tree, expected_at: Path, got: Tree, got_at: Path) -> list[Difference]:
    """The differences, sorted by path. Both trees must be checked out at the given paths. Raises OSError."""
    left = {entry.path: entry for entry in expected.entries}
    right = {entry.path: entry for entry in got.entries}
    differences = []
    for path in differing_paths(expected, got):
        if path not in right:
            differences.append(Difference(path, DifferenceKind.MISSING))
        elif path not in left:
            differences.append(Difference(path, DifferenceKind.ADDED))
        else:
            differences.append(_compare(left[path], right[path], expected_at / path, got_at / path))
    return differences


def _compare(expected: TreeEntry, got: TreeEntry, expected_at: Path, got_at: Path) -> Difference:
    if expected.digest == got.digest:
        return Difference(expected.path, DifferenceKind.TARGET if expected.kind is got.kind else DifferenceKind.KIND)
    if expected.digest is None or got.digest is None:
        return Difference(expected.path, DifferenceKind.KIND)
    offset = first_difference(expected_at, got_at)
    return Difference(expected.path, DifferenceKind.CONTENT, offset, name_part(expected_at, offset))


def first_difference(one: Path, other: Path) -> int:
    """The offset of the first byte that differs; the size of the shorter file if it is a prefix of the other."""
    offset = 0
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            a, b = left.read(_CHUNK), right.read(_CHUNK)
            if a != b:
                shared = min(len(a), len(b))
                return offset + next((i for i in range(shared) if a[i] != b[i]), shared)
            if not a:
                return offset
            offset += len(a)


def name_part(path: Path, offset: int) -> str:
    """The section, archive member or APE slice that contains the byte at `offset`; empty if unknown."""
    with path.open("rb") as file:
        magic = file.read(8)
    if magic == _ARCHIVE:
        return _member(path, offset)
    if magic.startswith(b"MZqFpD='"):
        return _slice(path, offset)
    return _section(path, offset) if magic.startswith(_EXECUTABLE) else ""


def _member(path: Path, offset: int) -> str:
    """The archive member at `offset`, found by walking the headers of ar(5)."""
    long_names = b""
    with path.open("rb") as file:
        start = len(_ARCHIVE)
        while header := os.pread(file.fileno(), _MEMBER_HEADER, start):
            size_text = header[48:58].strip()
            if offset < start or not header.endswith(_MEMBER_END) or not size_text.isdigit():
                return ""
            body = start + _MEMBER_HEADER
            end = body + int(size_text) + int(size_text) % 2
            if offset < end:
                return f"member {_member_name(header, long_names)}{' (header)' if offset < body else ''}"
            if header.startswith(b"// "):
                long_names = os.pread(file.fileno(), end - body, body)
            start = end
    return ""


def _member_name(header: bytes, long_names: bytes) -> str:
    """The name of a member. GNU ar stores names longer than 15 bytes in the member `//` (`long_names`)."""
    name = header[:16].strip()
    if name.startswith(b"/") and name[1:].isdigit():
        name = long_names[int(name[1:]) :].partition(b"\n")[0]
    return name.decode("utf-8", "replace").rstrip("/") or "index"


def _slice(path: Path, offset: int) -> str:
    try:
        slices = read_container(path).slices
    except ApeError:
        return ""  # truncated, or made by another linker
    for part in slices:
        if part.offset <= offset < part.offset + part.size:
            return f"slice {part.name}"
    return ""


def _section(path: Path, offset: int) -> str:
    if not has_extra("inspect"):
        return ""
    # lief takes 60 ms to import, and is needed only if a build differs.
    import lief

    lief.logging.disable()
    binary = lief.parse(str(path))
    if not isinstance(binary, lief.ELF.Binary | lief.PE.Binary | lief.MachO.Binary):
        return ""
    section = binary.section_from_offset(offset)
    return f"section {section.name!s}" if section else ""
