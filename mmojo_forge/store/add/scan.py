"""What lies at a path that an untrusted build left: its files and symlinks, and whether all of it may be stored.

Nothing is followed: each directory is opened part by part from the root's descriptor, each with O_NOFOLLOW.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

from mmojo_forge.model.derivation import Limits
from mmojo_forge.model.tree import MAX_DEPTH, EntryKind, TreeEntry, TreeError, check_name, check_symlink
from mmojo_forge.store.protocol import UnstorableOutput

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = MappingProxyType(
    {
        stat.S_IFBLK: "device",
        stat.S_IFCHR: "device",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFLNK: "symlink",
    }
)


@dataclass(frozen=True, slots=True)
class ScannedFile:
    """A regular file: its directory and name, its size when it was seen."""

    directory: str
    name: str
    size: int
    executable: bool

    @property
    def path(self) -> str:
        """The path in the tree."""
        return f"{self.directory}/{self.name}" if self.directory else self.name


@dataclass(slots=True)
class ScannedTree:
    """What was found below a root: entries without content, and files whose content is still to be read."""

    entries: list[TreeEntry] = field(default_factory=list)
    files: list[ScannedFile] = field(default_factory=list)
    size: int = 0

    @property
    def count(self) -> int:
        """How many names there are."""
        return len(self.entries) + len(self.files)


def scan(root_fd: int, shown: str, limits: Limits, ignored: frozenset[str]) -> ScannedTree:
    """The tree below the directory `root_fd`; raises OutputError or TreeError with the first thing that is wrong."""
    found = ScannedTree([TreeEntry("", EntryKind.DIRECTORY)])
    # A directory inherits setgid from a work folder that is shared by a group; that says nothing about the build.
    inherited = os.fstat(root_fd).st_mode & stat.S_ISGID
    pending = [""]
    while pending:
        directory = pending.pop()
        if directory.count("/") + 1 >= MAX_DEPTH:
            raise TreeError(f"add {shown}: {directory[:80]}… is too deep", reason="tree-bad-name")
        pending.extend(_scan_directory(root_fd, directory, found, _Rules(shown, limits, ignored, inherited)))
    return found


def open_beneath(root_fd: int, directory: str) -> int:
    """A descriptor of the directory at a path below `root_fd`, never reached through a symlink."""
    fd = os.dup(root_fd)
    for part in directory.split("/") if directory else ():
        try:
            below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def check_file(status: os.stat_result, shown: str, path: str) -> None:
    """Raise OutputError unless it is a regular file that claims no privilege."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "unknown")
        raise UnstorableOutput(
            f"add {shown}: {path or 'the output'} is a {kind}",
            detail="A store object has directories, files and symlinks only.",
            reason=f"output-{kind}",
        )
    _check_mode(status.st_mode, shown, path)


@dataclass(frozen=True, slots=True)
class _Rules:
    shown: str
    limits: Limits
    ignored: frozenset[str]
    inherited: int


def _scan_directory(root_fd: int, directory: str, found: ScannedTree, rules: _Rules) -> list[str]:
    try:
        fd = open_beneath(root_fd, directory)
        try:
            with os.scandir(fd) as listing:
                return _take(sorted(listing, key=lambda entry: entry.name), fd, directory, found, rules)
        finally:
            os.close(fd)
    except PermissionError as error:
        raise unreadable(rules.shown, directory) from error


def unreadable(shown: str, path: str) -> UnstorableOutput:
    """The error for what the build locked itself."""
    return UnstorableOutput(
        f"add {shown}: {path or 'the output'} cannot be read",
        detail="The build left it without permission to read; a chmod in its last phase mends that.",
        reason="output-unreadable",
    )


def _take(listing: Iterable[os.DirEntry[str]], fd: int, directory: str, found: ScannedTree, rules: _Rules) -> list[str]:
    below = []
    for item in listing:
        if item.name in rules.ignored:
            continue
        check_name(item.name)
        path = f"{directory}/{item.name}" if directory else item.name
        status = item.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            _check_mode(mode & ~rules.inherited, rules.shown, path)
            found.entries.append(TreeEntry(path, EntryKind.DIRECTORY))
            below.append(path)
        elif stat.S_ISLNK(mode):
            target = _read_link(item.name, fd, rules.shown, path)
            found.entries.append(TreeEntry(path, EntryKind.SYMLINK, target=target))
        else:
            check_file(status, rules.shown, path)
            found.files.append(ScannedFile(directory, item.name, status.st_size, bool(mode & stat.S_IXUSR)))
            found.size += status.st_size
        check_limits(found, rules.shown, rules.limits)
    return below


def _read_link(name: str, fd: int, shown: str, path: str) -> str:
    target = os.readlink(name, dir_fd=fd)
    try:
        target.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TreeError(f"add {shown}: symlink {path} has no UTF-8 target", reason="symlink-bad-target") from error
    check_symlink(path, target)
    return target


def check_limits(found: ScannedTree, shown: str, limits: Limits) -> None:
    """Raise OutputError when there is too much of it."""
    if found.count > limits.output_files:
        raise UnstorableOutput(f"add {shown}: more than {limits.output_files:,} files", reason="output-too-many-files")
    if found.size > limits.output_bytes:
        raise UnstorableOutput(f"add {shown}: more than {limits.output_bytes:,} bytes", reason="output-too-large")


def _check_mode(mode: int, shown: str, path: str) -> None:
    for bit, name in ((stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid"), (stat.S_ISVTX, "sticky")):
        if mode & bit:
            raise UnstorableOutput(
                f"add {shown}: {path} has the {name} bit",
                detail="A store object has no modes but the executable bit.",
                reason=f"output-{name}",
            )
