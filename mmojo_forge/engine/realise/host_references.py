"""What an output may not tell of the machine that built it: its names, its paths, its kernel, its CPU, the date.

A sandbox hides most of it. What it cannot hide (the kernel's version, the clock, the CPU) would make a build differ on
another machine or another day, and is found here on the first day, before the output is registered.
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
# More dates than builds have days would be searched for only where the clock was set forward by years in between.
_MOST_DAYS = 31
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNFOLLOWED = os.O_NOFOLLOW | os.O_CLOEXEC
# Shorter texts turn up by chance, and these users and hosts are called so everywhere.
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
    """A text that may not turn up, and what it is. `whole` ones count only where no word goes on around them."""

    kind: str
    text: bytes
    whole: bool = False


@dataclass(frozen=True, slots=True)
class FoundReference:
    """One place where a secret turned up: `path` within the output, empty if it is one file; `offset` in its content
    or in what a symlink points to, None if the path itself tells it."""

    kind: str
    text: str
    path: str
    offset: int | None

    def __str__(self) -> str:
        if self.offset is None:
            return f"the name of {self.path}: {self.kind} {self.text!r}"
        return f"{self.path or 'the file'} at offset {self.offset:#x}: {self.kind} {self.text!r}"


def references_of_this_machine(store: Path, now: float, since: float | None = None) -> tuple[HostReference, ...]:
    """What a build on this machine may not give away that ran from `since` (`now` if None) until `now`, both in seconds
    since the epoch: each day of it was today once."""
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
    """The days from one time to another, whichever is the earlier, as the sandbox counts them: by UTC."""
    first, last = sorted((int(since // _DAY), int(now // _DAY)))
    return sorted({first, *range(max(first, last - _MOST_DAYS), last + 1)})


def _user() -> tuple[str, str]:
    """This user's home and name; both empty for one who has no entry, as in containers with a number for a user."""
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
    """The leaks in the files, symlinks and names of an output, the first of each secret in each; raises OSError.

    What may not be read, or lies too deep, is passed over: the store refuses such outputs.
    """
    above = os.open(output.parent, _DIRECTORY)
    try:
        yield from _find(above, output.name, "", tuple(secrets))
    finally:
        os.close(above)


def _find(folder: int, name: str, path: str, secrets: tuple[HostReference, ...]) -> Iterator[FoundReference]:
    """The leaks in one entry of an open folder and in all below it; `path` is the entry's own within the output."""
    for secret in _scan_name(path, secrets):
        yield FoundReference(secret.kind, _shown(secret), path, None)
    with contextlib.suppress(PermissionError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _find_below(folder, name, path, secrets)
        elif stat.S_ISLNK(mode) or stat.S_ISREG(mode):
            # Anything else is a device or pipe, which the store refuses; reading it might never end.
            scan = _scan_link if stat.S_ISLNK(mode) else _scan_file
            for secret, offset in scan(folder, name, secrets).items():
                yield FoundReference(secret.kind, _shown(secret), path, offset)


def _find_below(folder: int, name: str, path: str, secrets: tuple[HostReference, ...]) -> Iterator[FoundReference]:
    if path.count("/") + 1 >= MAX_DEPTH:
        return
    # By descriptors, as a path may be longer from here than it is within the output.
    opened = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for below in sorted(os.listdir(opened)):
            yield from _find(opened, below, f"{path}/{below}" if path else below, secrets)
    finally:
        os.close(opened)


def _shown(secret: HostReference) -> str:
    return secret.text.decode("utf-8", "replace")


def _scan_name(path: str, secrets: tuple[HostReference, ...]) -> list[HostReference]:
    """The secrets in a path that end in its last part: what a folder's name tells is not told for all below it too.

    The whole path is searched, from a slash on, as a secret may be a path itself, and made up of several folders.
    """
    if not path:
        return []
    text = b"\0/" + os.fsencode(path) + b"\0"
    last = text.rindex(b"/") + 1
    return [secret for secret, at in _search(text, secrets, 0).items() if at + len(secret.text) > last]


def _scan_link(folder: int, name: str, secrets: tuple[HostReference, ...]) -> dict[HostReference, int]:
    return _search(b"\0" + os.fsencode(os.readlink(name, dir_fd=folder)) + b"\0", secrets, -1)


def _scan_file(folder: int, name: str, secrets: tuple[HostReference, ...]) -> dict[HostReference, int]:
    """The first offset of each secret, in memory that does not grow with the file."""
    found: dict[HostReference, int] = {}
    # As much of one window is seen again in the next as the longest secret needs, with a byte on either side.
    overlap = max((len(secret.text) for secret in secrets), default=0) + 2
    with os.fdopen(os.open(name, os.O_RDONLY | _UNFOLLOWED, dir_fd=folder), "rb", buffering=0) as file:
        start, window = -1, b"\0"
        while chunk := file.read(_CHUNK):
            window += chunk
            found.update(_search(window, (secret for secret in secrets if secret not in found), start))
            start += max(len(window) - overlap, 0)
            window = window[-overlap:]
        found.update(_search(window + b"\0", (secret for secret in secrets if secret not in found), start))
    return found


def _search(window: bytes, secrets: Iterable[HostReference], start: int) -> dict[HostReference, int]:
    """Where the secrets are in a window that begins at `start`; its first and last byte only say what is beside."""
    found = {}
    for secret in secrets:
        at = window.find(secret.text, 1, -1)
        while at >= 0 and secret.whole and _goes_on(window, at, at + len(secret.text)):
            at = window.find(secret.text, at + 1, -1)
        if at >= 0:
            found[secret] = start + at
    return found


def _goes_on(window: bytes, start: int, end: int) -> bool:
    """Whether the word that begins at `start` begins earlier, or the one that ends at `end` ends later."""
    return _joined(window[start - 1], window[start]) or _joined(window[end], window[end - 1])


def _joined(beside: int, edge: int) -> bool:
    """Whether a word goes on: none begins with a slash, and a number ends where a letter is: `2026-01-02T03:04`."""
    return beside in (_DIGITS if edge in _DIGITS else _WORD) and edge in _WORD
