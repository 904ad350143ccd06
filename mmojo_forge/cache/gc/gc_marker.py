"""The marks by which collections and pushes of one cache coordinate.

    collection.json           {"began":1795268000.0,"ended":1795268031.5,"schema":1}
    collection-unnamed.json   {"schema":1,"unnamed":{"packs/ab/abcd…":1795181600.0,…}}

A collection writes `began` before it reads the cache for the last time, and `ended` after it removed the last object.
A push compares both before and after its run, and so finds out whether anything was removed meanwhile. `unnamed` has
the manifests and packs that no map names any more, each with the time since when.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.transport.protocol import Transport, read_whole
from mmojo_forge.cache.write.writer import PushMode

MARK = "collection.json"
UNNAMED = "collection-unnamed.json"
LONGEST = 6 * 3600.0
"""Seconds after which a collection that has not ended is taken for dead."""
_MAX_MARK = 64 << 10
_MAX_UNNAMED = 256 << 20
_POLL_SECONDS = 1.0

_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class Mark:
    """When the last collection began and ended, in seconds since the epoch. It differs after each collection."""

    began: float = 0.0
    ended: float = 0.0

    def is_under_way(self, now: float) -> bool:
        """Whether a collection is running at the time `now`."""
        return self.ended < self.began and now - self.began < LONGEST


def read_mark(transport: Transport) -> Mark:
    """The mark of the last collection; an empty mark if there is none that can be read."""
    document = _read(transport, MARK, _MAX_MARK)
    try:
        return Mark(float(document["began"]), float(document["ended"]))
    except (ValueError, KeyError, TypeError):
        return Mark()


def write_mark(transport: Transport, mark: Mark) -> None:
    """Write the mark; raises CacheError if the cache cannot be written."""
    _write(transport, MARK, {"began": mark.began, "ended": mark.ended})


def read_unnamed(transport: Transport) -> Mapping[str, float]:
    """The time since when each path is unnamed. Empty if unreadable; then the objects are only kept longer."""
    document = _read(transport, UNNAMED, _MAX_UNNAMED)
    try:
        return {str(path): float(since) for path, since in document["unnamed"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_unnamed(transport: Transport, unnamed: Mapping[str, float]) -> None:
    """Write these times for the next collection; raises CacheError."""
    _write(transport, UNNAMED, {"unnamed": dict(unnamed)})


def push_beside(
    transport: Transport,
    push: Callable[[PushMode], _Done],
    *,
    mode: PushMode = PushMode.TRUSTING,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    patience: float = 120.0,
) -> _Done:
    """The result of `push`, which is repeated as long as a collection removed objects while it ran.

    A collection may remove objects that the push relies on before the push has written its index. Either the
    collection sees the index when it reads the cache for the last time, or it began earlier; then the mark differs, and
    the push runs again in a thorough mode. The push first waits up to `patience` seconds for the collection to end.
    """
    before = read_mark(transport)
    done = push(mode)
    given_up = clock() + patience
    while True:
        mark = read_mark(transport)
        if mark.is_under_way(clock()) and clock() < given_up:
            sleep(_POLL_SECONDS)
        elif mark == before:
            return done
        else:
            before = mark
            done = push(mode if mode is PushMode.OVERWRITE else PushMode.THOROUGH)


def _read(transport: Transport, path: str, most: int) -> dict[str, Any]:
    try:
        document = json.loads(read_whole(transport, path, most))
    except CacheError as error:
        if error.fault is CacheFault.FAILING:
            raise
        return {}
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _write(transport: Transport, path: str, document: dict[str, object]) -> None:
    encoded = json.dumps({"schema": layout.SCHEMA, **document}, sort_keys=True, separators=(",", ":")).encode()
    transport.put(path, encoded, if_absent=False)
