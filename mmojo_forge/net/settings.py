"""Timeouts, limits and trust of an HTTP client, and the check for answers that arrive too slowly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of a client. The numbers are seconds, bytes per second, or counts.

    The client gives an answer up if fewer than `least_rate` bytes per second arrive in `grace_seconds` of waiting.
    `ca_bundle` replaces the machine's certificates. `connections` is the number of idle connections kept per host.

    The client sends `token` to its own server only. Without TLS it sends the token only to this machine, unless
    `plain_token` is set. `redirect_hosts` are the other hosts that the server may redirect to.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 20.0
    grace_seconds: float = 20.0
    least_rate: float = 4096.0
    redirects: int = 5
    connections: int = 8
    ca_bundle: str = ""
    attempts: int = 4
    backoff_seconds: float = 0.5
    longest_pause_seconds: float = 60.0
    token: str = ""
    plain_token: bool = False
    redirect_hosts: frozenset[str] = frozenset()


class Pace:
    """Measures how fast one answer arrives, in spans of `grace_seconds`.

    An average over the whole answer would let a server drip for hours after a fast start. Only the time that the reader
    waits counts: a slow disk on our side is not the server's fault.
    """

    def __init__(self, settings: HttpSettings, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._began = 0.0
        self._waited = 0.0
        self._got = 0

    def start(self) -> None:
        """Note that the reader starts to wait."""
        self._began = self._clock()

    def stop(self, count: int) -> str:
        """The measured rate as text if the answer is too slow, else "". `count` bytes arrived; 0 means the end."""
        self._waited += self._clock() - self._began
        self._got += count
        if not count or self._waited < self._settings.grace_seconds:
            return ""
        if self._got < self._waited * self._settings.least_rate:
            return f"{self._got:,} bytes in {self._waited:.0f} s"
        self._waited, self._got = 0.0, 0
        return ""
