"""What an output may not tell of the machine that built it: its names, its paths, its kernel, its CPU, the date.

A sandbox hides most of it. What it cannot hide (the kernel's version, the clock, the CPU) would make a build differ on
another machine or another day, and is found here on the first day, before the output is registered.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
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
class Secret:
    """A text that may not turn up, and what it is. `whole` ones count only where no word goes on around them."""

    kind: str
    text: bytes
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Leak:
    """One place where a secret turned up: `path` within the output, empty if it is one file."""

    kind: str
    text: str
    path: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path or 'the file'} at offset {self.offset:#x}: {self.kind} {self.text!r}"


def secrets_of_this_machine(store: Path, now: float) -> tuple[Secret, ...]:
    """What builds of today on this machine may not give away; `now` in seconds since the epoch."""
    return tuple(_secrets(store, now))


def _secrets(store: Path, now: float) -> Iterator[Secret]:
    yield Secret("store path", os.fsencode(store))
    home, login = _user()
    if home.count("/") > 1:
        yield Secret("home", os.fsencode(home), whole=True)
    kernel = os.uname()
    for kind, name in (("host name", kernel.nodename), ("user name", login)):
        if len(name) >= _SHORTEST_NAME and name not in _COMMON_NAMES:
            yield Secret(kind, name.encode(), whole=True)
    yield Secret("kernel version", kernel.release.encode(), whole=True)
    model = _cpu_model()
    if len(model) >= _SHORTEST_MODEL:
        yield Secret("CPU model", model.encode())
    for form in ("%Y-%m-%d", "%b %e %Y", "%a %b %e", "%e %b %Y", "%d %b %Y"):
        yield Secret("date of today", time.strftime(form, time.gmtime(now)).strip().encode(), whole=True)


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


def find_leaks(output: Path, secrets: Iterable[Secret]) -> Iterator[Leak]:
    """The leaks in the files and symlinks of an output, the first of each kind in each file; raises OSError."""
    wanted = tuple(secrets)
    for path in _files(output):
        name = str(path.relative_to(output)) if path != output else ""
        if not stat.S_ISREG(path.lstat().st_mode) and not path.is_symlink():
            continue  # a device or pipe, which the store refuses; reading it might never end
        for secret, offset in _scan(path, wanted).items():
            yield Leak(secret.kind, secret.text.decode("utf-8", "replace"), name, offset)


def _files(output: Path) -> Iterator[Path]:
    if output.is_symlink() or not output.is_dir():
        yield output
        return
    for folder, folders, names in os.walk(output):
        folders.sort()
        # Symlinks to directories are among the directories, and are not followed.
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted([*links, *names]))


def _scan(path: Path, secrets: tuple[Secret, ...]) -> dict[Secret, int]:
    """The first offset of each secret, in memory that does not grow with the file."""
    if path.is_symlink():
        return _search(b"\0" + os.fsencode(os.readlink(path)) + b"\0", secrets, -1)
    found: dict[Secret, int] = {}
    # As much of one window is seen again in the next as the longest secret needs, with a byte on either side.
    overlap = max((len(secret.text) for secret in secrets), default=0) + 2
    with path.open("rb", buffering=0) as file:
        start, window = -1, b"\0"
        while chunk := file.read(_CHUNK):
            window += chunk
            found.update(_search(window, (secret for secret in secrets if secret not in found), start))
            start += max(len(window) - overlap, 0)
            window = window[-overlap:]
        found.update(_search(window + b"\0", (secret for secret in secrets if secret not in found), start))
    return found


def _search(window: bytes, secrets: Iterable[Secret], start: int) -> dict[Secret, int]:
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
