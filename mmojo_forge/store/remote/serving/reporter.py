"""Who is told of what a server does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer. `target` is as the client wrote it; a `status` of 0 means that it was cut."""

    client: str
    method: str
    target: str
    status: int
    seconds: float
    reason: str = ""


class Reporter:
    """Told of each exchange, and of what went wrong here; this one does not care."""

    def answered(self, exchange: Exchange) -> None:
        """A request was answered, or its answer was cut."""

    def failed(self, message: str) -> None:
        """The server could not do what it should, which its operator has to know."""
