"""What piles up beside the trees: logs, partial downloads, failed builds, leftovers of checks, old evaluations.

None of it is part of any result; its age is that of its file.
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
    """One thing that may go: its kind, its path in the store, its bytes."""

    kind: str
    path: str
    size: int


def find(root: str, before: float, *, downloads: bool) -> list[StaleFile]:
    """All that was last changed before that time, apart from logs; partial downloads only if `downloads`."""
    kinds = [layout.FAILED, layout.CHECKS, layout.DAMAGED, _EVALUATIONS, *([layout.DOWNLOADS] if downloads else [])]
    return [one for kind in kinds for one in _old_entries(root, kind, before)]


def _old_entries(root: str, kind: str, before: float) -> Iterator[StaleFile]:
    with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(root, kind)) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < before:
                size = bytes_below(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
                yield StaleFile(kind.partition("/")[0], f"{kind}/{entry.name}", size)


def find_logs(root: str, database: Database, before: float, gone: set[TreeId]) -> list[StaleFile]:
    """The logs that were written before that time, and tell of nothing that is here once the trees in `gone` are."""
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
    """Remove them. Partial downloads only while no other process can open the store: one may be taking them up."""
    for one in found:
        if one.kind != layout.DOWNLOADS:
            scratch.throw_away(root, process, one.path)
    downloads = [one for one in found if one.kind == layout.DOWNLOADS]
    tmp = os.path.join(root, layout.TMP)
    if downloads:
        with scratch.locked(tmp, layout.OPEN_LOCK, fcntl.LOCK_EX):
            if all(name == process.name for name, _ in scratch.processes(tmp)):
                for one in downloads:
                    scratch.throw_away(root, process, one.path)


def forget_traces(database: Database, before: float) -> int:
    """Drop the traces of builds before that time of which no output is here, and what derivations came to that is
    not here; how many traces. What they were built to, and from which preimage, cannot be told any more."""
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
        # Of several outputs one may be all that was ever fetched: what is here is still known by them all.
        connection.execute(
            "DELETE FROM resolved WHERE derivation NOT IN "
            "(SELECT derivation FROM resolved JOIN trees ON trees.id = resolved.tree)"
        )
    return gone
