"""How long a client may take: a grace, then no less than so many bytes a second, and no standstill."""

from __future__ import annotations

import asyncio

from mmojo_forge.store.remote.serving.limits import Limits


class Pace:
    """Begins when it is made."""

    def __init__(self, limits: Limits) -> None:
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
