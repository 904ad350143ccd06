"""Trying again: transient failures are met with patience that grows, or as long as the server asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmojo_forge.fetch.failure import UrlFailure
from mmojo_forge.fetch.http import HttpClient

_T = TypeVar("_T")


def with_retries(client: HttpClient, operation: Callable[[], _T]) -> _T:
    """What `operation` returns in the first try that does not fail for a moment only; raises its last UrlFailure."""
    settings = client.settings
    for attempt in range(1, settings.attempts + 1):
        try:
            return operation()
        except UrlFailure as failure:
            if not failure.transient or attempt == settings.attempts:
                raise
            pause = settings.backoff_seconds * 2 ** (attempt - 1)
            asked = failure.retry_after or 0.0
            client.cancellation.pause(min(max(pause, asked), settings.longest_pause_seconds))
    raise AssertionError("settings.attempts is at least 1")
