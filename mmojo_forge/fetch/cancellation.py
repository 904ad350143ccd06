"""Stopping downloads from another thread: at once, even in the middle of a read that waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from mmojo_forge.fetch.failure import FetchError


class Stoppable(Protocol):
    """A response whose waiting reader can be woken."""

    def shutdown(self) -> None:
        """Make pending and further reads end."""


class Cancellation:
    """Shared by all downloads of one fetcher. Once cancelled it stays so."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._guard = threading.Lock()
        self._open: set[Stoppable] = set()

    def cancel(self) -> None:
        """Stop everything that is under way and everything that will be tried."""
        self._event.set()
        with self._guard:
            for response in self._open:
                # The response may have just ended by itself; then there is nothing to wake.
                _shut_down(response)

    def check(self) -> None:
        """Raise FetchError (reason `cancelled`) if cancelled."""
        if self._event.is_set():
            raise FetchError("fetch: cancelled", reason="cancelled")

    def pause(self, seconds: float) -> None:
        """Wait; raises FetchError as soon as cancelled."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def watching(self, response: Stoppable) -> Iterator[None]:
        """Have `response` shut down if cancelled meanwhile."""
        with self._guard:
            self._open.add(response)
        try:
            self.check()
            yield
        finally:
            with self._guard:
                self._open.discard(response)


def _shut_down(response: Stoppable) -> None:
    try:
        response.shutdown()
    except (ValueError, RuntimeError, OSError):
        return
