"""How much a server gives to its clients before it gives them up.

How long a client may take: a grace, then no less than so many bytes a second, and no standstill.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Numbers and seconds; `least_rate` is in bytes a second.

    So many `connections` are served, `spare_connections` more are told to come back later, all others are closed.
    Whoever sends or takes less than the least rate after the grace is given up; so is a body that stalls.
    """

    connections: int = 1024
    spare_connections: int = 64
    header_seconds: float = 20.0
    idle_seconds: float = 60.0
    stall_seconds: float = 30.0
    grace_seconds: float = 30.0
    least_rate: float = 4096.0
    linger_seconds: float = 30.0
    """For how long a body that was refused is read all the same: its sender reads no answer before it has sent it."""
    stop_seconds: float = 0.4
    """For how long answers may go on when the server is stopped; it may take twice that."""
    threads: int = 8

    @property
    def descriptors(self) -> int:
        """The files that may be open at once: of each connection a socket and a file, and some of our own."""
        return 2 * (self.connections + self.spare_connections) + 4 * self.threads + 64


class ClientPace:
    """Begins when it is made."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._began = asyncio.get_running_loop().time()

    def next_part(self, so_far: int) -> asyncio.Timeout:
        """The time for the next bytes, when so many have come."""
        limits = self._limits
        still = asyncio.get_running_loop().time() + limits.stall_seconds
        return asyncio.timeout_at(min(still, self._began + limits.grace_seconds + so_far / limits.least_rate))

    def whole(self, size: int) -> asyncio.Timeout:
        """The time for all of so many bytes."""
        return asyncio.timeout_at(self._began + self._limits.grace_seconds + size / self._limits.least_rate)
