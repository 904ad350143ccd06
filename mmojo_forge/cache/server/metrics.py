"""Counters of a server for Prometheus (text exposition format 0.0.4), and the interface for its log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mmojo_forge.cache.server.objects import ObjectKind


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. `target` is the raw request target. A `status` of 0 means an aborted answer."""

    client: str
    method: str
    target: str
    status: int
    seconds: float
    reason: str = ""


class ServerReporter:
    """Receives each exchange and each failure of the server. This class ignores them."""

    def answered(self, exchange: Exchange) -> None:
        """A request was answered, or its answer was aborted."""

    def failed(self, message: str) -> None:
        """The server failed in a way that its operator has to know."""


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class Metrics:
    """Counters since `started` (seconds since the epoch). Only the event loop's thread changes them."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._requests: Counter[tuple[str, str]] = Counter()
        self._written: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self.received = 0
        self.sent = 0
        self.connections = 0
        self.turned_away = 0
        self.deleted = 0

    def answered(self, method: str, status: str) -> None:
        """Count a request. The status of an aborted answer is `cut`."""
        # A client could invent methods, and each would become a time series of its own.
        self._requests[method if method in _METHODS else "other", status] += 1

    def wrote(self, kind: ObjectKind) -> None:
        """Count a written object."""
        self._written[kind] += 1

    def refused_write(self, reason: str) -> None:
        """Count a refused write."""
        self._refused[reason] += 1

    def render(self) -> str:
        """All metrics as text."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _described("requests_total", "counter", "Requests by method and status.")
        for (method, status), count in sorted(self._requests.items()):
            yield f'forge_cache_requests_total{{method="{method}",status="{status}"}} {count}'
        yield from _single("received_bytes_total", "counter", "Bytes of request bodies received.", self.received)
        yield from _single("sent_bytes_total", "counter", "Bytes of response bodies sent.", self.sent)
        yield from _single("connections", "gauge", "Open connections.", self.connections)
        yield from _single(
            "connections_turned_away_total",
            "counter",
            "Connections refused because there were too many.",
            self.turned_away,
        )
        yield from _described("objects_written_total", "counter", "Objects written, by kind.")
        for kind, count in sorted(self._written.items()):
            yield f'forge_cache_objects_written_total{{kind="{kind}"}} {count}'
        yield from _single("objects_deleted_total", "counter", "Objects removed.", self.deleted)
        yield from _described("writes_refused_total", "counter", "Writes refused, by reason.")
        for reason, count in sorted(self._refused.items()):
            yield f'forge_cache_writes_refused_total{{reason="{reason}"}} {count}'
        yield from _single(
            "start_time_seconds", "gauge", "Start time of the server, in seconds since the epoch.", self._started
        )


def _described(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP forge_cache_{name} {text}"
    yield f"# TYPE forge_cache_{name} {kind}"


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield from _described(name, kind, text)
    yield f"forge_cache_{name} {value}"
