"""The evaluation cache: what targets came to, as long as no file that was read has changed.

An entry names every file the evaluation depended on with its modification time, size and inode. It is believed
only if all of them are as they were *and* none was modified so shortly before the entry was written that a second
change could have left the same time stamp (git calls such entries racily clean). Standard library only: the no-op
`forge realize` reads it before anything else is imported.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SCHEMA = 1
_RACY_NANOSECONDS = 20_000_000


@dataclass(frozen=True, slots=True)
class CachedTarget:
    """A target, the derivation and output it means, and what the store object is called."""

    target: str
    derivation: str
    output: str
    object_name: str


def read(folder: str, workspace: str, targets: Sequence[str]) -> list[CachedTarget] | None:
    """What the targets came to last time, if that still holds; None when it has to be evaluated anew."""
    try:
        with open(_entry_path(folder, workspace, targets), encoding="utf-8") as file:
            entry = json.load(file)
        if entry["schema"] != SCHEMA or entry["workspace"] != workspace or entry["targets"] != list(targets):
            return None
        if not all(_stamp(path) == stamp for path, stamp in entry["files"].items()):
            return None
        return [CachedTarget(*row) for row in entry["results"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(
    folder: str, workspace: str, targets: Sequence[str], files: Iterable[str], results: Iterable[CachedTarget]
) -> None:
    """Keep what the targets came to. `files` are those read, and the folders whose listing mattered."""
    stamps = {path: _stamp(path) for path in files}
    if any(stamp is None for stamp in stamps.values()):
        return
    entry = {
        "schema": SCHEMA,
        "workspace": workspace,
        "targets": list(targets),
        "files": stamps,
        "results": [[row.target, row.derivation, row.output, row.object_name] for row in results],
    }
    path = _entry_path(folder, workspace, targets)
    try:
        os.makedirs(folder, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(entry, file)
            written = os.fstat(file.fileno()).st_mtime_ns
        newest = max((stamp[0] for stamp in stamps.values() if stamp), default=0)
        if written - newest < _RACY_NANOSECONDS:
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except OSError:
        # Only speed is lost: the next run evaluates again.
        return


def _entry_path(folder: str, workspace: str, targets: Sequence[str]) -> str:
    # The whole request stands in the entry and is compared, so a short checksum will do for the name.
    request = "\0".join((workspace, *targets)).encode("utf-8", "surrogateescape")
    return os.path.join(folder, f"{zlib.crc32(request):08x}-{len(targets)}.json")


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]
