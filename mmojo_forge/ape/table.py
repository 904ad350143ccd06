"""The slice table that the linker writes into a launcher (`launcher/table.h`, struct ape_table)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.features import WORDS
from mmojo_forge.ape.spec import MAX_SLICES

MAGIC: Final = b"@APE-TABLE-0001@"
_HEAD: Final = struct.Struct("<16sIIQ64s64s")
_SLICE: Final = struct.Struct(f"<48s24sQQ32s{WORDS}I")
SIZE: Final = _HEAD.size + MAX_SLICES * _SLICE.size


@dataclass(frozen=True, slots=True)
class TableSlice:
    """One slice as a launcher sees it."""

    name: str
    system: str
    offset: int
    size: int
    sha256: str
    need: tuple[int, ...]

    def encode(self) -> bytes:
        """struct ape_slice."""
        names = (self.name.encode(), self.system.encode())
        return _SLICE.pack(*names, self.offset, self.size, bytes.fromhex(self.sha256), *self.need)


def find_table(image: bytes, what: str) -> int:
    """Where the placeholder lies in a launcher's bytes."""
    at = image.find(MAGIC)
    if at < 0 or image.find(MAGIC, at + 1) >= 0:
        raise ApeError(
            f"launcher {what}: {'no' if at < 0 else 'more than one'} slice table in it",
            detail="launchers are built by mmojo_forge/ape/launcher/build.sh",
            reason=ApeReason.LAUNCHER,
        )
    (size,) = struct.unpack_from("<I", image, at + 16)
    if size != SIZE or at + SIZE > len(image):
        raise ApeError(
            f"launcher {what}: its slice table has {size} bytes, this linker's {SIZE}",
            detail="build the launchers from the same sources as the linker",
            reason=ApeReason.LAUNCHER,
        )
    return at


def encode_table(program: str, offset: int, header: bytes, slices: Sequence[TableSlice]) -> bytes:
    """struct ape_table for a table that lies at `offset` of the container; `header` is what --assimilate writes."""
    head = _HEAD.pack(MAGIC, SIZE, len(slices), offset, header, program.encode())
    return (head + b"".join(one.encode() for one in slices)).ljust(SIZE, b"\0")


def patch_table(image: bytes, table: bytes, what: str) -> bytes:
    """`image` with `table` in place of its placeholder."""
    at = find_table(image, what)
    return image[:at] + table + image[at + SIZE :]
