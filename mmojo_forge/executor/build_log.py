"""The log of a build: what it prints, compressed as it comes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from mmojo_forge.executor.request import ExecutorError

# Bytes that may wait in the compressor: what a killed forge loses of a log, at most.
_FLUSH_BYTES = 1 << 20
_TAIL_BYTES = 4096


class BuildLog:
    """A zstd file that grows with the build's output, up to a limit; the first bytes beyond it are dropped.

    Callers may assume that memory stays constant, that everything written before `flush` can be read back by others
    while the build still runs, and that the file is one complete frame once closed.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._unflushed = 0
        self.written = 0
        self.tail = b""
        self._compressor = zstandard.ZstdCompressor(level=3).compressobj()
        with _told_about(path):
            self._file = path.open("wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            self._put(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))

    def write(self, data: bytes) -> bool:
        """Whether all of it fitted within the limit."""
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
        """Make what was written readable by others."""
        if self._unflushed:
            self._put(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            self._unflushed = 0

    def _put(self, data: bytes) -> None:
        with _told_about(self._path):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]


@contextmanager
def _told_about(path: Path) -> Iterator[None]:
    """Turns a failure of the file system into an ExecutorError that names the log."""
    try:
        yield
    except OSError as error:
        reason = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "no-log"
        raise ExecutorError(f"write the log {path}: {error.strerror}", reason=reason) from error
