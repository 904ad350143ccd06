"""Scans outputs for host references: texts that identify the machine or the day of the build.

The sandbox hides most of them. It cannot hide the kernel version, the clock and the CPU. An output that contains
these differs on another machine or another day; the scan finds that at the first build, before the output is
registered.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.model.tree import MAX_DEPTH

_DAY = 86_400
# Limits the number of dates to search for, in case the clock jumped by years during the run.
_MOST_DAYS = 31
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNFOLLOWED = os.O_NOFOLLOW | os.O_CLOEXEC
# Shorter texts occur by chance, and the common names below identify no machine.
_SHORTEST_NAME = 4
_SHORTEST_MODEL = 12
_COMMON_NAMES = frozenset(
    "admin builder build debian default docker forge gitlab guest host jenkins linux local localhost nobody root "
    "runner server service test ubuntu user users vagrant".split()
)
_DIGITS = frozenset(b"0123456789")
_WORD = _DIGITS | frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")


@dataclass(frozen=True, slots=True)
class HostReference:
    """A text that an output must not contain, and its kind. With `whole`, only matches at word boundaries count."""

    kind: str
    text: bytes
    whole: bool = False


@dataclass(frozen=True, slots=True)
class FoundReference:
    """One place where a host reference was found.

    `path` is relative to the output, empty if the output is one file. `offset` is the position in the file's content
    or in the symlink's target; None if the path itself contains the text.
    """

    kind: str
    text: str
    path: str
    offset: int | None

    def __str__(self) -> str:
        if self.offset is None:
            return f"the name of {self.path}: {self.kind} {self.text!r}"
        return f"{self.path or 'the file'} at offset {self.offset:#x}: {self.kind} {self.text!r}"


def references_of_this_machine(store: Path, now: float, since: float | None = None) -> tuple[HostReference, ...]:
    """The host references of a build that ran on this machine from `since` (`now` if None) until `now`.

    Both are in seconds since the epoch. The dates of all days in between are included.
    """
    return tuple(_secrets(store, now, now if since is None else since))


def _secrets(store: Path, now: float, since: float) -> Iterator[HostReference]:
    yield HostReference("store path", os.fsencode(store))
    home, login = _user()
    if home.count("/") > 1:
        yield HostReference("home", os.fsencode(home), whole=True)
    kernel = os.uname()
    for kind, name in (("host name", kernel.nodename), ("user name", login)):
        if len(name) >= _SHORTEST_NAME and name not in _COMMON_NAMES:
            yield HostReference(kind, name.encode(), whole=True)
    yield HostReference("kernel version", kernel.release.encode(), whole=True)
    model = _cpu_model()
    if len(model) >= _SHORTEST_MODEL:
        yield HostReference("CPU model", model.encode())
    for day in _days(since, now):
        for form in ("%Y-%m-%d", "%b %e %Y", "%a %b %e", "%e %b %Y", "%d %b %Y"):
            yield HostReference(
                "date of today", time.strftime(form, time.gmtime(day * _DAY)).strip().encode(), whole=True
            )


def _days(since: float, now: float) -> list[int]:
    """The UTC days between two times, in either order. The sandbox has TZ=UTC, so builds see UTC dates."""
    first, last = sorted((int(since // _DAY), int(now // _DAY)))
    return sorted({first, *range(max(first, last - _MOST_DAYS), last + 1)})


def _user() -> tuple[str, str]:
    """This user's home and name; both empty if the user id has no passwd entry, as is common in containers."""
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return "", ""
    return user.pw_dir, user.pw_name


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def find_references(output: Path, secrets: Iterable[HostReference]) -> Iterator[FoundReference]:
    """The host references in the files, symlinks and names of an output; raises OSError.

    Each reference is reported once per file. Unreadable files and too deep folders are skipped, because the store
    refuses such outputs anyway.
    """
    above = os.open(output.parent, _DIRECTORY)
    try:
        yield from _find(above, output.name, "", tuple(secrets))
    finally:
        os.close(above)


def _find(folder: int, name: str, path: str, secrets: tuple[HostReference, ...]) -> Iterator[FoundReference]:
    """The references in one entry of an open folder and everything below it; `path` is relative to the output."""
    for reference in _scan_name(path, secrets):
        yield FoundReference(reference.kind, _shown(reference), path, None)
    with contextlib.suppress(PermissionError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _find_below(folder, name, path, secrets)
        elif stat.S_ISLNK(mode) or stat.S_ISREG(mode):
            # Anything else is a device or pipe. The store refuses it, and reading it might never end.
            scan = _scan_link if stat.S_ISLNK(mode) else _scan_file
            for reference, offset in scan(folder, name, secrets).items():
                yield FoundReference(reference.kind, _shown(reference), path, offset)


def _find_below(folder: int, name: str, path: str, secrets: tuple[HostReference, ...]) -> Iterator[FoundReference]:
    if path.count("/") + 1 >= MAX_DEPTH:
        return
    # Uses descriptors instead of paths: seen from here, a path may exceed the system's length limit.
    opened = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for below in sorted(os.listdir(opened)):
            yield from _find(opened, below, f"{path}/{below}" if path else below, secrets)
    finally:
        os.close(opened)


def _shown(secret: HostReference) -> str:
    return secret.text.decode("utf-8", "replace")


def _scan_name(path: str, secrets: tuple[HostReference, ...]) -> list[HostReference]:
    """The references in a path that end in its last part, so that a folder's match is not repeated for its files.

    The whole path is searched, with a leading slash, because a reference may be a path of several folders.
    """
    if not path:
        return []
    text = b"\0/" + os.fsencode(path) + b"\0"
    last = text.rindex(b"/") + 1
    found = _search(text, secrets, 0)
    return [reference for reference, at in found.items() if at + len(reference.text) > last]


def _scan_link(folder: int, name: str, secrets: tuple[HostReference, ...]) -> dict[HostReference, int]:
    return _search(b"\0" + os.fsencode(os.readlink(name, dir_fd=folder)) + b"\0", secrets, -1)


def _scan_file(folder: int, name: str, secrets: tuple[HostReference, ...]) -> dict[HostReference, int]:
    """The first offset of each reference. Reads in windows, so memory does not grow with the file."""
    found: dict[HostReference, int] = {}
    # Consecutive windows overlap by the longest reference and one byte on either side, which _search needs.
    overlap = max((len(reference.text) for reference in secrets), default=0) + 2
    with os.fdopen(os.open(name, os.O_RDONLY | _UNFOLLOWED, dir_fd=folder), "rb", buffering=0) as file:
        start, window = -1, b"\0"
        while chunk := file.read(_CHUNK):
            window += chunk
            found.update(_search(window, (reference for reference in secrets if reference not in found), start))
            start += max(len(window) - overlap, 0)
            window = window[-overlap:]
        found.update(_search(window + b"\0", (reference for reference in secrets if reference not in found), start))
    return found


def _search(window: bytes, secrets: Iterable[HostReference], start: int) -> dict[HostReference, int]:
    """The offsets of the references in a window that begins at offset `start` of the file.

    The first and last byte of the window are context for word boundaries; matches do not include them.
    """
    found = {}
    for reference in secrets:
        at = window.find(reference.text, 1, -1)
        while at >= 0 and reference.whole and _goes_on(window, at, at + len(reference.text)):
            at = window.find(reference.text, at + 1, -1)
        if at >= 0:
            found[reference] = start + at
    return found


def _goes_on(window: bytes, start: int, end: int) -> bool:
    """Whether the match from `start` to `end` is part of a longer word."""
    return _joined(window[start - 1], window[start]) or _joined(window[end], window[end - 1])


def _joined(beside: int, edge: int) -> bool:
    """Whether the byte `beside` continues the word that ends with `edge`.

    A slash is no part of a word. A number ends at a letter, so that the date in `2026-01-02T03:04` is found.
    """
    return beside in (_DIGITS if edge in _DIGITS else _WORD) and edge in _WORD
