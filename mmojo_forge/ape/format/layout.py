"""Where the pieces of an APE lie: pure arithmetic, no bytes.

    0            front: magic, PE headers, shell part          (placed by link.py, its length comes first)
    8-aligned    program headers of the ELF launchers
    512-aligned  section data of the PE launcher
    64 KiB       the ELF launchers, the slices, mapped assets: each a stored zip entry whose local header lies
                 directly before its data, so that data is aligned and ordinary zip tools still see it
    end          zip directory

    ..gap..|local header|data................|..gap..|local header|data...
                        ^ 64 KiB                                  ^ 64 KiB

64 KiB is the largest page size of aarch64 and the allocation granularity of Windows: what is aligned to it can be
mapped everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 65536


@dataclass(frozen=True, slots=True)
class Piece:
    """Something to be placed: `head` bytes of local header, then `size` bytes of data at a multiple of `align`."""

    head: int
    size: int
    align: int = BLOCK


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece lies: its local header from `head`, its data from `data` up to `end`."""

    head: int
    data: int
    end: int


def round_up(value: int, align: int) -> int:
    """The smallest multiple of `align` that is not below `value`."""
    return -(-value // align) * align


def place_piece(start: int, piece: Piece) -> Place:
    """The first place for `piece` at or after `start`."""
    data = round_up(start + piece.head, piece.align)
    return Place(head=data - piece.head, data=data, end=data + piece.size)


def place_pieces(start: int, pieces: Iterable[Piece]) -> tuple[Place, ...]:
    """A place for each piece, in order, none overlapping another."""
    places = []
    for piece in pieces:
        place = place_piece(start, piece)
        places.append(place)
        start = place.end
    return tuple(places)
