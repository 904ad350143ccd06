"""Threads that make nodes, and the token that stops their builds.

Results come back to the thread that calls `WorkerPool.wait`, so callbacks need no locks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

_T = TypeVar("_T")


@dataclass(slots=True)
class CancelToken:
    """Tells all running builds to stop. It is a pipe, so builds can poll it together with their output."""

    _pipe: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_CLOEXEC))
    asked: bool = False

    def fileno(self) -> int:
        """The read end of the pipe. It becomes readable for all pollers when `ask` closes the write end."""
        return self._pipe[0]

    def ask(self) -> None:
        """Stop all builds. Further calls do nothing."""
        if not self.asked:
            self.asked = True
            os.close(self._pipe[1])

    def close(self) -> None:
        """Release the descriptors."""
        self.ask()
        os.close(self._pipe[0])


class WorkerPool:
    """A context manager for worker threads. On exit, it stops all work and waits until nothing runs any more."""

    def __init__(self, threads: int) -> None:
        self.stop = CancelToken()
        self._pool = ThreadPoolExecutor(threads, "forge")
        self._done: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.ask()
        # Close the token last: running builds still poll its descriptor.
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.stop.close()

    def start(self, work: Callable[[], _T], then: Callable[[Future[_T]], None]) -> None:
        """Run `work` in a worker thread. `wait` later calls `then` with its future, in the thread that waits."""
        self._running += 1
        self._pool.submit(work).add_done_callback(lambda done: self._done.put(lambda: then(done)))

    @property
    def busy(self) -> bool:
        """Whether `wait` still has callbacks to run, now or later."""
        return self._running > 0

    def wait(self) -> None:
        """Wait until one piece of work finishes, and run its callback."""
        finish = self._done.get()
        self._running -= 1
        finish()
