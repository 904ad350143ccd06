"""Waiting for the disk apart from the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Done = TypeVar("_Done")


class Threads:
    """A few threads that wait for the disk."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "forge-serve")

    async def run(self, work: Callable[..., _Done], *given: object, **named: object) -> _Done:
        """What the work gives. Whoever is cancelled meanwhile goes on when the work is done: it may still use a
        descriptor that would be closed next."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *given, **named))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Let go of the threads, when they have done what they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)
