"""Workers, and what stops them: what they finish comes back to the one thread that waits for it."""

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
    """Tells every running build to stop: a pipe whose read end becomes readable."""

    _pipe: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_CLOEXEC))
    asked: bool = False

    def fileno(self) -> int:
        """The read end; it becomes readable, for everyone at once, when the write end is closed."""
        return self._pipe[0]

    def ask(self) -> None:
        """Stop everything; may be called more than once."""
        if not self.asked:
            self.asked = True
            os.close(self._pipe[1])

    def close(self) -> None:
        """Release the descriptors."""
        self.ask()
        os.close(self._pipe[0])


class WorkerPool:
    """Some threads. Callers may assume that nothing runs any more once the block is left."""

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
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.stop.close()

    def start(self, work: Callable[[], _T], then: Callable[[Future[_T]], None]) -> None:
        """Have a worker do something; `then` is called with what came of it by `wait`, in the thread that waits."""
        self._running += 1
        self._pool.submit(work).add_done_callback(lambda done: self._done.put(lambda: then(done)))

    @property
    def busy(self) -> bool:
        """Whether anything was started that `wait` has not told of yet."""
        return self._running > 0

    def wait(self) -> None:
        """Return when something was finished and told of."""
        finish = self._done.get()
        self._running -= 1
        finish()
