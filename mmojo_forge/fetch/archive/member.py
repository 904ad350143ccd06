"""What a parser says of one entry of an archive, before anybody decides what to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class MemberKind(Enum):
    """What an entry claims to be."""

    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    HARD_LINK = auto()
    DEVICE = auto()


@dataclass(frozen=True, slots=True)
class Member:
    """One entry as the archive names it: nothing here is to be trusted, but `size` is not negative.

    `size` counts the bytes of content that follow; `target` is set for both kinds of links.
    """

    name: str
    kind: MemberKind
    size: int = 0
    executable: bool = False
    target: str = ""
