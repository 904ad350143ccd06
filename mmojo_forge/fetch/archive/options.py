"""The values of an extraction: options and limits going in, the report coming out, and the parsers' entries.

ArchiveMember is what `tar` and `zip` yield. UnpackBudget counts against ArchiveLimits while an archive is unpacked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.model.tree import MAX_DEPTH, MAX_PATH_BYTES


class MemberKind(Enum):
    """The kind that an entry claims to have."""

    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    HARD_LINK = auto()
    DEVICE = auto()


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One entry as the archive describes it. All values are untrusted, except that `size` is not negative.

    `size` is the number of content bytes. `target` is set for both kinds of links.
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
    """Bounds on one archive. The defaults allow every real source and stop archive bombs early.

    `members` counts entries and the directories they imply. `total_bytes` counts the bytes written, including copies
    made for hard links. An archive may unpack to `ratio_slack` bytes plus `ratio` times its packed size.
    `header_bytes` bounds each pax or GNU long-name header, because forge holds them in memory.
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
        """The largest number of bytes that `packed` bytes may unpack to."""
        return self.ratio_slack + self.ratio * packed


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """Which entries of an archive to unpack, and where to put them below the destination.

    The options apply to names in this order:

    1. `strip_components` drops this many leading parts, and skips names that have no more parts than that.
    2. `subpath` ("vendor/llama.cpp") keeps only names below it, and drops that prefix.
    3. `include` and `exclude` are patterns for the path so far. `*`, `?` and `[a-z]` match within one part; `**`
       matches any number of parts. A pattern that matches a directory covers everything below it. Without `include`
       everything is included; `exclude` wins.
    4. `merge_usr` moves bin, sbin, lib, lib32, lib64 and libx32 at the root to usr/<same>, and adjusts symlink targets.
       The root gets symlinks (bin → usr/bin) for those that exist.
    5. `prefix` puts everything below that folder of the tree. Symlinks in the archive cannot leave it either.

    `root_links` is for (parts of) a root file system: it makes absolute symlink targets relative to the tree. Otherwise
    they are refused. `replace` allows an archive to replace files and symlinks of an earlier archive. Otherwise both
    must be the same. `may_be_empty` allows an archive of which nothing is selected, such as a package that has only
    documentation.
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
            raise ValueError("merge_usr works at the root of the tree, so it excludes prefix")


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """Counts of what one extraction wrote. `format` is the detected format: tar, tar.gz, zip, deb.xz…"""

    format: str
    files: int = 0
    symlinks: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: int = 0


class UnpackBudget:
    """Counts against the limits while an archive is unpacked. Each method raises ArchiveError beyond its limit."""

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
        """Count the bytes of a file before it is written."""
        if size > self._limits.file_bytes:
            raise ArchiveError(f"{path}: {size} bytes in one file", reason=Reason.TOO_BIG)
        self.bytes += size
        if self.bytes > self._limits.total_bytes:
            raise ArchiveError(f"{path}: more than {self._limits.total_bytes} bytes in all", reason=Reason.TOO_BIG)
        if self.bytes > self._allowed:
            raise ArchiveError(f"{path}: more than {self._allowed} bytes from so small an archive", reason=Reason.RATIO)
