"""The log of a build: its output, compressed as it arrives."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from mmojo_forge.executor.request import ExecutorError

# The most bytes that wait in the compressor, and so the most that a log loses if forge is killed.
_FLUSH_BYTES = 1 << 20
_TAIL_BYTES = 4096


class BuildLog:
    """A zstd file that takes a build's output up to a limit, and drops everything beyond it.

    It uses constant memory. Other processes can read everything written before a `flush` while the build runs. The
    closed file is one complete frame.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._unflushed = 0
        self.written = 0
        self.tail = b""
        self._compressor = zstandard.ZstdCompressor(level=3).compressobj()
        with _reported(path):
            self._file = path.open("wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            self._put(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))

    def write(self, data: bytes) -> bool:
        """Append output, and return whether all of it fitted within the limit."""
        kept = data[: max(0, self._limit - self.written)]
        if kept:
            self.written += len(kept)
            self._unflushed += len(kept)
            self.tail = (self.tail + kept)[-_TAIL_BYTES:]
            if compressed := self._compressor.compress(kept):
                self._put(compressed)
            if self._unflushed >= _FLUSH_BYTES:
                self.flush()
        return len(kept) == len(data)

    def flush(self) -> None:
        """Make everything written so far readable by other processes."""
        if self._unflushed:
            self._put(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            self._unflushed = 0

    def _put(self, data: bytes) -> None:
        with _reported(self._path):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn an OSError into an ExecutorError (`disk-full`, `no-log`) that names the log."""
    try:
        yield
    except OSError as error:
        reason = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "no-log"
        raise ExecutorError(f"write the log {path}: {error.strerror}", reason=reason) from error
