"""Stale files beside the trees: logs, partial downloads, failed builds, remains of checks, old evaluations.

None of them is part of any result. The modification time of the file is its age.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store import layout, scratch
from mmojo_forge.store.db.database import Database
from mmojo_forge.store.maintain.usage import bytes_below, files_below
from mmojo_forge.store.scratch import ProcessScratch

_EVALUATIONS = f"{layout.CACHE}/evaluation"
_OUTPUT_TREES = "SELECT json_extract(value, '$.tree') FROM json_each({table}.outputs)"
_ANY_VALID = f"EXISTS (SELECT 1 FROM trees WHERE id IN ({_OUTPUT_TREES}))"


@dataclass(frozen=True, slots=True)
class StaleFile:
    """One file or folder that may go: its kind, its path in the store, its size in bytes."""

    kind: str
    path: str
    size: int


def find(root: str, before: float, *, downloads: bool) -> list[StaleFile]:
    """The stale files that last changed before that time, without logs; partial downloads only if `downloads`."""
    kinds = [layout.FAILED, layout.CHECKS, layout.DAMAGED, _EVALUATIONS, *([layout.DOWNLOADS] if downloads else [])]
    return [file for kind in kinds for file in _old_entries(root, kind, before)]


def _old_entries(root: str, kind: str, before: float) -> Iterator[StaleFile]:
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(root, kind)) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < before:
                size = bytes_below(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
                yield StaleFile(kind.partition("/")[0], f"{kind}/{entry.name}", size)


def find_logs(root: str, database: Database, before: float, gone: set[TreeId]) -> list[StaleFile]:
    """The logs from before that time whose builds have no valid output left once the trees in `gone` are removed."""
    rows = database.query(
        "SELECT traces.key, json_extract(value, '$.tree') FROM traces, json_each(traces.outputs) "
        "WHERE json_extract(value, '$.tree') IN (SELECT id FROM trees)"
    )
    kept = {layout.log_path(key) for key, tree in rows if tree not in gone}
    top = os.path.join(root, layout.LOGS)
    found = []
    for path, size in files_below(top):
        name = os.path.relpath(path, top)
        with contextlib.suppress(FileNotFoundError):
            if name not in kept and os.lstat(path).st_mtime < before:
                found.append(StaleFile(layout.LOGS, f"{layout.LOGS}/{name}", size))
    return found


def remove(root: str, process: ProcessScratch, found: Sequence[StaleFile]) -> None:
    """Remove the files. Keeps partial downloads while another process has the store open."""
    for file in found:
        if file.kind != layout.DOWNLOADS:
            scratch.throw_away(root, process, file.path)
    # Another process may be resuming a download, so open.lock keeps new processes out while these go.
    downloads = [file for file in found if file.kind == layout.DOWNLOADS]
    tmp = os.path.join(root, layout.TMP)
    if downloads:
        with scratch.locked(tmp, layout.OPEN_LOCK, fcntl.LOCK_EX):
            if all(name == process.name for name, _ in scratch.processes(tmp)):
                for file in downloads:
                    scratch.throw_away(root, process, file.path)


def forget_traces(database: Database, before: float) -> int:
    """The number of traces dropped: those of builds before that time that have no valid output left.

    Also drops resolved derivations without a valid tree. After this, forge can no longer explain those builds.
    """
    with database.transaction() as connection:
        signed = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'signatures'").fetchone()
        gone = 0
        for table in ("traces", "conflicts"):
            dead = f"started < ? AND NOT {_ANY_VALID.format(table=table)}"
            gone += connection.execute(f"DELETE FROM {table} WHERE {dead}", (before,)).rowcount
        if signed:
            connection.execute(
                "DELETE FROM signatures WHERE key NOT IN (SELECT key FROM traces UNION SELECT key FROM conflicts)"
            )
        # A derivation with several outputs stays if one of them is valid: forge may have fetched only that one.
        connection.execute(
            "DELETE FROM resolved WHERE derivation NOT IN "
            "(SELECT derivation FROM resolved JOIN trees ON trees.id = resolved.tree)"
        )
    return gone
