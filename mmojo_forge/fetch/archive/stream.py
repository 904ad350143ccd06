"""Moves bytes from a packed file to a parser: reads, decompresses ahead in a thread, hands out exact sizes.

    file_chunks ──▶ codec.unpacked ──▶ ReadAhead (a thread) ──▶ ByteSource ──▶ tar parser, tree writer

Memory use is at most `capacity` bytes and two chunks, for an archive of any size.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason

CHUNK = 1 << 18


def file_chunks(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range of a file; raises ArchiveError if the file ends before the range."""
    while length:
        chunk = os.pread(descriptor, min(CHUNK, length), offset)
        if not chunk:
            raise ArchiveError("the file ends early", reason=Reason.TRUNCATED)
        yield chunk
        offset += len(chunk)
        length -= len(chunk)


class ReadAhead:
    """Runs an iterator in a thread, up to `capacity` bytes ahead of its consumer.

    Decompressors release the GIL, so decompression overlaps with writing. If the iterator raises an exception, the
    consumer gets it in place of the next chunk. After `close` the thread no longer runs.
    """

    def __init__(self, chunks: Iterator[bytes], capacity: int) -> None:
        self._chunks = chunks
        self._capacity = capacity
        self._ready: deque[bytes | BaseException | None] = deque()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="archive-read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready)
                item = self._ready.popleft()
                if isinstance(item, bytes):
                    self._held -= len(item)
                    self._changed.notify_all()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for chunk in self._chunks:
                if not self._put(chunk):
                    return
        except Exception as error:  # noqa: BLE001 (handed over, and raised again where the chunk would have been)
            last = error
        with self._changed:
            self._ready.append(last)
            self._changed.notify_all()

    def _put(self, chunk: bytes) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._held < self._capacity)
            self._held += len(chunk)
            self._ready.append(chunk)
            self._changed.notify_all()
            return not self._closed


class ByteSource:
    """Reads exact numbers of bytes from chunks; raises ArchiveError (`archive-truncated`) if the chunks end early."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes in one piece, for headers."""
        if len(self._chunk) >= size:
            piece = bytes(self._chunk[:size])
            self._advance(size)
            return piece
        return b"".join(self.take(size))

    def take(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces, without copying, for content. Consume them before the next call."""
        while size:
            if not self._chunk and not self._fill():
                raise ArchiveError("the archive ends early", reason=Reason.TRUNCATED)
            piece = self._chunk[:size]
            self._advance(len(piece))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Skip the next `size` bytes."""
        for _ in self.take(size):
            pass

    def at_end(self) -> bool:
        """Whether no bytes are left."""
        return not self._chunk and not self._fill()

    def drain(self) -> None:
        """Read to the end. Decompressors check their checksums only there."""
        while not self.at_end():
            self._advance(len(self._chunk))

    def _advance(self, size: int) -> None:
        self._chunk = self._chunk[size:]
        self.position += size

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._chunk = memoryview(chunk)
                return True
        return False
