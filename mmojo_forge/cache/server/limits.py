"""Limits of a server: connections, timeouts, and the slowest transfer that a client may make."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Counts and seconds; `least_rate` is in bytes per second.

    The server answers on `connections` connections, answers 503 on `spare_connections` more, and closes all others. It
    gives up a client that is slower than `least_rate` after the grace period, or that stalls.
    """

    connections: int = 1024
    spare_connections: int = 64
    header_seconds: float = 20.0
    idle_seconds: float = 60.0
    stall_seconds: float = 30.0
    grace_seconds: float = 30.0
    least_rate: float = 4096.0
    linger_seconds: float = 30.0
    """How long the server reads a refused body: many clients read no answer before they have sent the body."""
    stop_seconds: float = 0.4
    """How long answers may continue when the server stops. The stop can take twice as long."""
    threads: int = 8

    @property
    def descriptors(self) -> int:
        """The most descriptors in use at once: a socket and a file per connection, and some for the server itself."""
        return 2 * (self.connections + self.spare_connections) + 4 * self.threads + 64


class ClientPace:
    """The deadlines of one transfer, counted from the creation of this object.

    A client has a grace period. After that it must keep up `least_rate`, and may not stall.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._began = asyncio.get_running_loop().time()

    def next_part(self, so_far: int) -> asyncio.Timeout:
        """The timeout for the next bytes, after `so_far` bytes have arrived."""
        limits = self._limits
        still = asyncio.get_running_loop().time() + limits.stall_seconds
        return asyncio.timeout_at(min(still, self._began + limits.grace_seconds + so_far / limits.least_rate))

    def whole(self, size: int) -> asyncio.Timeout:
        """The timeout for a transfer of `size` bytes."""
        return asyncio.timeout_at(self._began + self._limits.grace_seconds + size / self._limits.least_rate)
