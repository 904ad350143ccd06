"""The evaluation cache: what targets came to, as long as no file that was read has changed.

An entry names every file the evaluation depended on with its modification time, size and inode, and every file that
would have mattered and was not there. It is believed only if all of them are as they were. None is written if one was
modified after the evaluation began, for hours of building may lie between reading a file and writing its entry; nor
if it was modified so shortly before that a second change could have left the same time stamp (git calls such entries
racily clean).

The no-op `forge realize` reads this before anything else, so it imports next to nothing: an entry is lines of
tab-separated words, not JSON, and its rows are tuples, for `json` and `dataclasses` take longer to import than the
rest of a no-op takes in all.

    forge-evaluation 1
    request <tab> workspace <tab> target…
    target <tab> target <tab> derivation <tab> output <tab> object name      once for each target
    file <tab> modification time in ns <tab> size <tab> inode <tab> path     once for each file
    absent <tab> path                                                        once for each that was not there
    end
"""

from __future__ import annotations

import os
import zlib

CachedTarget = tuple[str, str, str, str]
"""A target, the derivation id and output it means, and what the store object is called."""

_MAGIC = "forge-evaluation 1"
_RACY_NANOSECONDS = 20_000_000


def read(folder: str, workspace: str, targets: list[str], optional: tuple[str, ...] = ()) -> list[CachedTarget] | None:
    """What the targets came to last time, if that still holds; None when it has to be evaluated anew.

    `optional` are the files that count as soon as they are there: one that the entry does not know is news.
    """
    try:
        with open(_entry_path(folder, workspace, targets), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError):
        return None
    if lines[:2] != [_MAGIC, _line("request", workspace, *targets)] or lines[-2:] != ["end", ""]:
        return None
    rows: list[CachedTarget] = []
    for line in lines[2:-2]:
        kind, *words = line.split("\t")
        if kind == "target" and len(words) == 4:
            rows.append((words[0], words[1], words[2], words[3]))
        elif kind == "absent" and len(words) == 1:
            if os.path.lexists(words[0]):
                return None
        elif kind != "file" or line != _stamp(words[-1]):
            return None
    if any(os.path.lexists(path) and _stamp(path) not in lines for path in optional):
        return None
    return rows


def write(
    folder: str,
    workspace: str,
    targets: list[str],
    files: list[str],
    absent: list[str],
    results: list[CachedTarget],
    *,
    began: int,
) -> None:
    """Keep what the targets came to. `files` are those read, and the folders whose listing mattered; `absent` those
    that were not there. The first of them was read at `began` (ns since the epoch) or later."""
    stamps = [_stamp(path) for path in files]
    words = [workspace, *targets, *files, *absent, *(word for row in results for word in row)]
    if None in stamps or any("\t" in word or "\n" in word for word in words):
        return
    lines = [_MAGIC, _line("request", workspace, *targets), *(_line("target", *row) for row in results)]
    lines += (stamp for stamp in stamps if stamp)
    text = "\n".join([*lines, *(_line("absent", path) for path in absent), "end", ""])
    path = _entry_path(folder, workspace, targets)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        newest = max((os.stat(path).st_mtime_ns for path in files), default=0)
        if began - newest < _RACY_NANOSECONDS or any(os.path.lexists(path) for path in absent):
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except OSError:
        # Only speed is lost: the next run evaluates again.
        return


def _entry_path(folder: str, workspace: str, targets: list[str]) -> str:
    # The whole request stands in the entry and is compared, so a short checksum will do for the name.
    request = "\0".join((workspace, *targets)).encode("utf-8", "surrogateescape")
    return os.path.join(folder, f"{zlib.crc32(request):08x}-{len(targets)}")


def _line(*words: str) -> str:
    return "\t".join(words)


def _stamp(path: str) -> str | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _line("file", str(status.st_mtime_ns), str(status.st_size), str(status.st_ino), path)
