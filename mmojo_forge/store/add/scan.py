"""Scans the file tree that an untrusted build left: lists it, and refuses anything that the store cannot hold.

The scan follows no symlink: it opens each directory part by part from the root's descriptor, each with O_NOFOLLOW.
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
    """A regular file: its directory and name, and its size in bytes at the scan."""

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
    """The result of a scan: entries without content, and files whose content is still to be read. `size` in bytes."""

    entries: list[TreeEntry] = field(default_factory=list)
    files: list[ScannedFile] = field(default_factory=list)
    size: int = 0

    @property
    def count(self) -> int:
        """The number of entries and files."""
        return len(self.entries) + len(self.files)


def scan(root_fd: int, shown: str, limits: Limits, ignored: frozenset[str]) -> ScannedTree:
    """The tree below the directory `root_fd`; raises UnstorableOutput or TreeError at the first fault."""
    found = ScannedTree([TreeEntry("", EntryKind.DIRECTORY)])
    # A work folder that a group shares passes setgid on to new directories. The build did not set it, so allow it.
    inherited = os.fstat(root_fd).st_mode & stat.S_ISGID
    pending = [""]
    while pending:
        directory = pending.pop()
        if directory.count("/") + 1 >= MAX_DEPTH:
            raise TreeError(f"add {shown}: the path {directory[:80]}… is too deep", reason="tree-bad-name")
        pending.extend(_scan_directory(root_fd, directory, found, _Rules(shown, limits, ignored, inherited)))
    return found


def open_beneath(root_fd: int, directory: str) -> int:
    """A descriptor of a directory below `root_fd`, opened without following any symlink."""
    fd = os.dup(root_fd)
    for part in directory.split("/") if directory else ():
        try:
            below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def check_file(status: os.stat_result, shown: str, path: str) -> None:
    """Raise UnstorableOutput unless the status is that of a regular file without setuid, setgid and sticky bits."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "unknown")
        raise UnstorableOutput(
            f"add {shown}: {path or 'the output'} is a {kind}",
            detail="A store object can hold only directories, files and symlinks.",
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
    """The error for a file or directory that the build left without read permission."""
    return UnstorableOutput(
        f"add {shown}: {path or 'the output'} is not readable",
        detail="The build left it without read permission. Add a chmod to the build's last phase.",
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
        message = f"add {shown}: the target of symlink {path} is not UTF-8"
        raise TreeError(message, reason="symlink-bad-target") from error
    check_symlink(path, target)
    return target


def check_limits(found: ScannedTree, shown: str, limits: Limits) -> None:
    """Raise UnstorableOutput if the tree has more files or bytes than the limits allow."""
    if found.count > limits.output_files:
        message = f"add {shown}: it has more than {limits.output_files:,} files"
        raise UnstorableOutput(message, reason="output-too-many-files")
    if found.size > limits.output_bytes:
        message = f"add {shown}: it has more than {limits.output_bytes:,} bytes"
        raise UnstorableOutput(message, reason="output-too-large")


def _check_mode(mode: int, shown: str, path: str) -> None:
    for bit, name in ((stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid"), (stat.S_ISVTX, "sticky")):
        if mode & bit:
            raise UnstorableOutput(
                f"add {shown}: {path} has the {name} bit",
                detail="A store object keeps no file mode except the executable bit.",
                reason=f"output-{name}",
            )
