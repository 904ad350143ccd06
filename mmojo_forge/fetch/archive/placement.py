"""Maps names in an archive to paths in the tree: which members to unpack, and where to put them.

This module works on text only; `writer` touches files. A path is a tuple of names, and `()` is the root of the tree.
Paths from this module have no part that is empty, `.` or `..` or contains NUL, and respect the limits on length and
depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import ArchiveLimits, ExtractOptions
from mmojo_forge.model.tree import MAX_NAME_BYTES, TreeError, check_symlink

TreePath = tuple[str, ...]

MERGED_DIRECTORIES = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})
MAX_TARGET_BYTES = 4095

_SYMLINK_REASONS = MappingProxyType(
    {
        "symlink-absolute": Reason.SYMLINK_ABSOLUTE,
        "symlink-escapes": Reason.SYMLINK_ESCAPES,
    }
)


class Placement:
    """Maps the names of one archive to paths in the tree, by the rules of ExtractOptions."""

    def __init__(self, options: ExtractOptions) -> None:
        self._options = options
        self._subpath = split_name(options.subpath, options.limits) if options.subpath else ()
        self._include = _pattern(options.include) if options.include else None
        self._exclude = _pattern(options.exclude) if options.exclude else None

    @property
    def selects(self) -> bool:
        """Whether the options can skip members."""
        return bool(self._options.strip_components or self._subpath or self._include or self._exclude)

    def select(self, name: str) -> TreePath | None:
        """The path of a member before merging, or None if the options skip it; raises ArchiveError for a bad name."""
        path = split_name(name, self._options.limits)
        strip, prefix = self._options.strip_components, self._subpath
        if strip:
            if len(path) <= strip:
                return None
            path = path[strip:]
        if prefix:
            if len(path) <= len(prefix) or path[: len(prefix)] != prefix:
                return None
            path = path[len(prefix) :]
        if self._include or self._exclude:
            text = "/".join(path)
            if self._include and not self._include.fullmatch(text):
                return None
            if self._exclude and self._exclude.fullmatch(text):
                return None
        return path

    def merge(self, path: TreePath) -> TreePath:
        """The path after merging bin, lib… into usr, if the options ask for it."""
        if self._options.merge_usr and path and path[0] in MERGED_DIRECTORIES:
            return ("usr", *path)
        return path

    def symlink_target(self, path: TreePath, target: str) -> str | None:
        """The target to write for a symlink at `path` (before merging); None if it would point to itself.

        The target is relative, and as text it does not lead out of the tree; raises ArchiveError if that is impossible.
        """
        place = self.merge(path)
        _check_target(place, target)
        if target.startswith("/") and not self._options.root_links:
            raise ArchiveError(
                f"{'/'.join(place)}: symlink to the absolute path {target}", reason=Reason.SYMLINK_ABSOLUTE
            )
        if target.startswith("/") or self._options.merge_usr:
            aim = _resolve(path, target)
            merged = self.merge(aim)
            if merged == place:
                return None
            if target.startswith("/") or merged != aim or place != path:
                target = _relative(place[:-1], merged)
        _check_inside(place, target)
        return target


def split_name(name: str, limits: ArchiveLimits) -> TreePath:
    """The parts of a member's name, without `.` and empty parts; raises ArchiveError for a bad name."""
    if not name or "\0" in name:
        raise ArchiveError(f"{name[:80]!r}: not a file name", reason=Reason.BAD_NAME)
    if name.startswith("/"):
        raise ArchiveError(f"{name[:80]!r}: absolute name", reason=Reason.ABSOLUTE_NAME)
    if len(name) > limits.path_bytes or len(name.encode()) > limits.path_bytes:
        raise ArchiveError(f"{name[:80]!r}…: name of {len(name)} characters", reason=Reason.NAME_TOO_LONG)
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise ArchiveError(f"{name[:80]!r}: name with '..'", reason=Reason.DOTDOT)
    if len(parts) > limits.depth:
        raise ArchiveError(f"{name[:80]!r}…: {len(parts)} levels deep", reason=Reason.TOO_DEEP)
    # A character has at most four bytes, so most names are short enough without encoding them.
    if any(len(part) > MAX_NAME_BYTES // 4 and len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ArchiveError(f"{name[:80]!r}…: part of a name too long", reason=Reason.NAME_TOO_LONG)
    return parts


def _check_target(place: TreePath, target: str) -> None:
    if not target or "\0" in target or len(target.encode()) > MAX_TARGET_BYTES:
        raise ArchiveError(
            f"{'/'.join(place)}: symlink target is empty, too long or has NUL", reason=Reason.SYMLINK_BAD_TARGET
        )


def _check_inside(place: TreePath, target: str) -> None:
    try:
        check_symlink("/".join(place), target)
    except TreeError as error:
        reason = _SYMLINK_REASONS.get(error.reason, Reason.SYMLINK_BAD_TARGET)
        raise ArchiveError(f"{'/'.join(place)}: symlink to {target}: {error.message}", reason=reason) from error


def _resolve(path: TreePath, target: str) -> TreePath:
    """The path that `target` of the symlink at `path` leads to, as text; raises ArchiveError if it leaves the tree."""
    aim = [] if target.startswith("/") else list(path[:-1])
    for part in target.split("/"):
        if part == "..":
            if aim:
                aim.pop()
            elif not target.startswith("/"):  # the parent of / is /, but a relative target must not leave the tree
                raise ArchiveError(
                    f"{'/'.join(path)}: symlink to {target} leaves the tree", reason=Reason.SYMLINK_ESCAPES
                )
        elif part not in {"", "."}:
            aim.append(part)
    return tuple(aim)


def _relative(directory: TreePath, aim: TreePath) -> str:
    """The relative target that leads from `directory` to `aim`."""
    common = 0
    while common < min(len(directory), len(aim)) and directory[common] == aim[common]:
        common += 1
    return "/".join([".."] * (len(directory) - common) + list(aim[common:])) or "."


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """A regular expression for all paths that match a pattern or are below a match."""
    whole = "|".join(_glob_regex(glob) for glob in globs)
    return re.compile(f"(?:{whole})(?:/.*)?", re.DOTALL)


def _glob_regex(glob: str) -> str:
    parts = [part for part in glob.split("/") if part]
    if not parts or glob.startswith("/") or ".." in parts:
        raise ArchiveError(f"pattern {glob!r}: must be a path relative to the tree", reason=Reason.BAD_NAME)
    regex = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            regex += ".*" if last else "(?:[^/]+/)*"
        else:
            regex += _part_regex(part) + ("" if last else "/")
    return regex


def _part_regex(part: str) -> str:
    regex, position = "", 0
    while position < len(part):
        character = part[position]
        close = part.find("]", position + 2) if character == "[" else -1
        if close > 0:
            inner = part[position + 1 : close]
            negated = inner.startswith("!")
            body = inner[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            regex += f"(?!/)[{'^' if negated else ''}{body}]"
            position = close
        elif character == "*":
            regex += "[^/]*"
        else:
            regex += "[^/]" if character == "?" else re.escape(character)
        position += 1
    return regex
