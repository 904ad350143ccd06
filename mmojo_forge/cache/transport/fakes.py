"""Transports for tests: one in memory, and one that fails at a chosen operation or alters what is read."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmojo_forge.cache.failure import CacheError, CacheFault, missing
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, Transport, check_path


class MemoryTransport:
    """A transport in memory. A counter stands in for modification times, so that later objects are newer."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._order: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The location for messages."""
        return "memory"

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object or a part of it."""
        content = self.objects.get(check_path(path))
        if content is None:
            raise missing(self.place, path)
        yield io.BytesIO(content if span is None else content[span.start : span.start + span.length])

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Store the object."""
        with self._lock:
            if if_absent and check_path(path) in self.objects:
                return False
            self.objects[path] = content
            self._order[path] = len(self._order)
            return True

    def size(self, path: str) -> int | None:
        """The object's size."""
        content = self.objects.get(check_path(path))
        return None if content is None else len(content)

    def entries(self, folder: str) -> list[Listed]:
        """The entries of a folder."""
        start = f"{check_path(folder)}/"
        found: dict[str, Listed] = {}
        with self._lock:
            for path, content in self.objects.items():
                if path.startswith(start):
                    name, slash, _ = path.removeprefix(start).partition("/")
                    size = 0 if slash else len(content)
                    found[name] = Listed(name, size, float(self._order[path]), is_folder=bool(slash))
        return list(found.values())

    def delete(self, path: str) -> None:
        """Forget the object."""
        self.objects.pop(check_path(path), None)

    def close(self) -> None:
        """Do nothing."""


Alter = Callable[[str, Body], Body]
"""Returns the body to read instead of the original one at a path. It may raise CacheError."""


def died() -> CacheError:
    """The error of a transport that has died."""
    return CacheError("reach the cache: it is dead", reason="cache-unreachable", fault=CacheFault.FAILING)


class FaultyTransport:
    """A transport in front of another one that dies after `operations` operations, until `revive`.

    The write at which it dies may have happened. `alter` changes the body of every object that is read.
    """

    def __init__(self, behind: Transport, *, operations: int | None = None, alter: Alter | None = None) -> None:
        self._behind = behind
        self._left = operations
        self._alter = alter
        self._lock = threading.Lock()
        self.asked: list[tuple[str, str]] = []

    @property
    def place(self) -> str:
        """The location for messages."""
        return self._behind.place

    def revive(self) -> None:
        """Work again, from now on without a limit."""
        self._left = None

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object, altered."""
        self._count("get", path)
        with self._behind.open(path, span) as body:
            yield self._alter(path, body) if self._alter else body

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the object. If the transport dies here, every second write happens nonetheless."""
        try:
            self._count("put", path)
        except CacheError:
            if len(self.asked) % 2:
                self._behind.put(path, content, if_absent=if_absent)
            raise
        return self._behind.put(path, content, if_absent=if_absent)

    def size(self, path: str) -> int | None:
        """The object's size."""
        self._count("size", path)
        return self._behind.size(path)

    def entries(self, folder: str) -> list[Listed]:
        """The entries of a folder."""
        self._count("list", folder)
        return self._behind.entries(folder)

    def delete(self, path: str) -> None:
        """Remove the object."""
        self._count("delete", path)
        self._behind.delete(path)

    def close(self) -> None:
        """Close the transport behind."""
        self._behind.close()

    def _count(self, operation: str, path: str) -> None:
        with self._lock:
            self.asked.append((operation, path))
            if self._left is not None:
                if self._left <= 0:
                    raise died()
                self._left -= 1


class Altered:
    """A body whose whole content was replaced by the result of `change`."""

    def __init__(self, body: Body, change: Callable[[bytes], bytes]) -> None:
        content = b""
        while part := body.read(1 << 20):
            content += part
        self._content = change(content)

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        part, self._content = self._content[:count], self._content[count:]
        return part


class Endless:
    """A body that never ends."""

    def read(self, count: int, /) -> bytes:
        """`count` zero bytes."""
        return b"\0" * count
