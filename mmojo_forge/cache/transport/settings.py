"""How a cache is spoken to over a network: limits and a token, apart from the machinery, which takes long to import."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How a cache is spoken to. Whatever is slower than `least_rate` (bytes/s), after `grace_seconds`, is given up.

    `token` is sent with every request, and without TLS only to this machine, unless `plain_token` says otherwise.
    `redirect_hosts` are the other hosts that the cache may send us to, without the token.
    """

    token: str = ""
    plain_token: bool = False
    ca_bundle: str = ""
    connections: int = 8
    connect_seconds: float = 10.0
    stall_seconds: float = 20.0
    grace_seconds: float = 20.0
    least_rate: float = 4096.0
    redirect_hosts: frozenset[str] = frozenset()


class Pace:
    """How fast one answer comes."""

    def __init__(self, settings: WebSettings, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._got = 0

    def too_slow(self, count: int) -> str:
        """Count these bytes; how slow they come, if that is too slow."""
        self._got += count
        elapsed = self._clock() - self._began
        if elapsed > self._settings.grace_seconds and self._got < elapsed * self._settings.least_rate:
            return f"{self._got:,} bytes in {elapsed:.0f} s"
        return ""
