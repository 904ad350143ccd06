"""What to unpack of an archive, how much of it at most, and what came of it.

What a parser says of one entry of an archive, before anybody decides what to do with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.model.tree import MAX_DEPTH, MAX_PATH_BYTES


class MemberKind(Enum):
    """What an entry claims to be."""

    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    HARD_LINK = auto()
    DEVICE = auto()


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One entry as the archive names it: nothing here is to be trusted, but `size` is not negative.

    `size` counts the bytes of content that follow; `target` is set for both kinds of links.
    """

    name: str
    kind: MemberKind
    size: int = 0
    executable: bool = False
    target: str = ""


MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Bounds on what one archive may claim. The defaults hold every honest source and stop every bomb early.

    `members` counts entries and the directories they imply; `total_bytes` counts content as written, copies
    made for hard links included. An archive may unpack to `ratio_slack` bytes, and to `ratio` times its packed size
    beyond that. `header_bytes` bounds each pax or GNU long-name header, which are held in memory.
    """

    members: int = 1_000_000
    total_bytes: int = 64 * GIB
    file_bytes: int = 32 * GIB
    depth: int = MAX_DEPTH
    path_bytes: int = MAX_PATH_BYTES
    ratio: int = 200
    ratio_slack: int = 256 * MIB
    header_bytes: int = MIB

    def __post_init__(self) -> None:
        if self.depth > MAX_DEPTH or self.path_bytes > MAX_PATH_BYTES:
            raise ValueError("a tree is no deeper, and has no longer paths, than model.tree allows")

    def allowed_output(self, packed: int) -> int:
        """The most bytes that `packed` bytes may unpack to."""
        return self.ratio_slack + self.ratio * packed


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """What of an archive goes where below the destination. Names are treated in this order:

    1. `strip_components` leading parts are dropped; what has no more parts than that is left out;
    2. `subpath` ("vendor/llama.cpp"): only what lies below it, with that prefix dropped;
    3. `include`, `exclude`: patterns on the path so far. `*` and `?` and `[a-z]` match within one part, `**`
       matches any number of parts; a pattern that matches a directory covers all below it. Without `include`
       everything is included; `exclude` wins;
    4. `merge_usr`: bin, sbin, lib, lib32, lib64, libx32 at the root go to usr/<same>, symlink targets follow, and
       the root gets the symlinks (bin → usr/bin) for those that exist;
    5. `prefix`: all of it lies below that folder of the tree, which symlinks of the archive do not leave either.

    `root_links`: the archive is (part of) a root file system: absolute symlink targets are made relative within the
    tree. Otherwise they are refused. `replace`: a file or symlink that another archive left there is replaced;
    otherwise that is refused unless both are the same. `may_be_empty`: it is no mistake if nothing of an archive is
    selected, as of packages that hold documentation only.
    """

    strip_components: int = 0
    subpath: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    merge_usr: bool = False
    prefix: str | None = None
    root_links: bool = False
    replace: bool = False
    may_be_empty: bool = False
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)

    def __post_init__(self) -> None:
        if self.prefix and self.merge_usr:
            raise ValueError("a root file system lies at the root of its tree")


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What one extraction wrote. `format` is what the archive was found to be: tar, tar.gz, zip, deb.xz…"""

    format: str
    files: int = 0
    symlinks: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: int = 0


class UnpackBudget:
    """What is left of the limits while an archive is unpacked; each method raises ArchiveError once it is spent."""

    def __init__(self, limits: ArchiveLimits, packed: int) -> None:
        self._limits = limits
        self._allowed = limits.allowed_output(packed)
        self.members = 0
        self.bytes = 0

    def add_member(self) -> None:
        """Count one entry, or one directory that an entry implies."""
        self.members += 1
        if self.members > self._limits.members:
            raise ArchiveError(f"more than {self._limits.members} entries", reason=Reason.TOO_MANY)

    def add_file(self, path: str, size: int) -> None:
        """Count the bytes of a file about to be written."""
        if size > self._limits.file_bytes:
            raise ArchiveError(f"{path}: {size} bytes in one file", reason=Reason.TOO_BIG)
        self.bytes += size
        if self.bytes > self._limits.total_bytes:
            raise ArchiveError(f"{path}: more than {self._limits.total_bytes} bytes in all", reason=Reason.TOO_BIG)
        if self.bytes > self._allowed:
            raise ArchiveError(f"{path}: more than {self._allowed} bytes of so small an archive", reason=Reason.RATIO)
