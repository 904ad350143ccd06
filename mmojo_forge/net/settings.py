"""How patient a client is, whom it trusts, and how it notices an answer that comes too slowly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How servers are spoken to. The numbers are seconds, bytes a second, or counts.

    An answer of which fewer than `least_rate` bytes a second arrive while its reader waits for `grace_seconds` is given
    up. `ca_bundle` replaces the machine's certificates. `connections` to one host are kept for further requests.

    For a server that has a token: it is sent to that server only, and without TLS only to this machine, unless
    `plain_token` says otherwise. `redirect_hosts` are the other hosts that the server may redirect to.
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
    """How fast one answer comes, in spans of `grace_seconds`.

    An average over the whole answer would let a server drip for hours after a fast beginning. Only the time in which
    the reader waits counts: a slow disk on our side is not the server's fault.
    """

    def __init__(self, settings: HttpSettings, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._began = 0.0
        self._waited = 0.0
        self._got = 0

    def start(self) -> None:
        """The reader waits from now on."""
        self._began = self._clock()

    def stop(self, count: int) -> str:
        """So many bytes have come, none at the end: how slowly, if that is too slow."""
        self._waited += self._clock() - self._began
        self._got += count
        if not count or self._waited < self._settings.grace_seconds:
            return ""
        if self._got < self._waited * self._settings.least_rate:
            return f"{self._got:,} bytes in {self._waited:.0f} s"
        self._waited, self._got = 0.0, 0
        return ""
