"""What collections leave in a cache for each other, and for pushes that run beside them.

    collection.json           {"began":1795268000.0,"ended":1795268031.5,"schema":1}
    collection-unnamed.json   {"schema":1,"unnamed":{"packs/ab/abcd…":1795181600.0,…}}

`began` and `ended` tell a push, which reads them before and after, whether anything was removed while it ran: a
collection writes the one before it looks for the last time at what is there, the other after it removed the last.
`unnamed` has since when no map names a pack, or goes with a manifest, that is still there.
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
"""A collection that began so many seconds ago and did not end has died."""
_MAX_MARK = 64 << 10
_MAX_UNNAMED = 256 << 20
_POLL_SECONDS = 1.0

_Done = TypeVar("_Done")


@dataclass(frozen=True, slots=True)
class Mark:
    """When the last collection began and ended, in seconds since the epoch; differs after each."""

    began: float = 0.0
    ended: float = 0.0

    def is_under_way(self, now: float) -> bool:
        """Whether a collection is running."""
        return self.ended < self.began and now - self.began < LONGEST


def read_mark(transport: Transport) -> Mark:
    """The mark of the last collection; that of none where it cannot be read."""
    document = _read(transport, MARK, _MAX_MARK)
    try:
        return Mark(float(document["began"]), float(document["ended"]))
    except (ValueError, KeyError, TypeError):
        return Mark()


def write_mark(transport: Transport, mark: Mark) -> None:
    """Tell pushes; raises CacheError where the cache cannot be written."""
    _write(transport, MARK, {"began": mark.began, "ended": mark.ended})


def read_unnamed(transport: Transport) -> Mapping[str, float]:
    """Since when what is unnamed, by path; nothing where it cannot be read, and then it is kept for longer."""
    document = _read(transport, UNNAMED, _MAX_UNNAMED)
    try:
        return {str(path): float(since) for path, since in document["unnamed"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_unnamed(transport: Transport, unnamed: Mapping[str, float]) -> None:
    """Tell the next collection."""
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
    """What `push` gives, with that mode at first, and again for as long as a collection removed things while it ran.

    What a push trusts to be there may go before its index is. Either the collection sees the index when it looks for
    the last time; or it began before the index was written, and then the push sees that here. The end of a collection
    is waited for, for so many seconds as there is `patience`.
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
