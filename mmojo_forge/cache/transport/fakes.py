"""A cache in memory, for tests.

A transport that misbehaves, for tests: it dies at some operation, or alters what it is asked for.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmojo_forge.cache.failure import CacheError, CacheFault, missing
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, Transport, check_path


class MemoryTransport:
    """Objects by path; what was put later was modified later."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._order: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """What messages call it."""
        return "memory"

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object or a part of it."""
        content = self.objects.get(check_path(path))
        if content is None:
            raise missing(self.place, path)
        yield io.BytesIO(content if span is None else content[span.start : span.start + span.length])

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Keep the object."""
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
        """What lies in the folder."""
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
        """Nothing to let go of."""


Alter = Callable[[str, Body], Body]
"""What to read instead of the answer for a path. It may raise CacheError."""


def died() -> CacheError:
    """The error of a transport that is dead."""
    return CacheError("reach the cache: it is dead", reason="cache-unreachable", fault=CacheFault.FAILING)


class FaultyTransport:
    """A transport in front of another. It dies after `operations` of them, until `revive`; a write that it dies of may
    have happened. `alter` changes what is read, whatever path it is."""

    def __init__(self, behind: Transport, *, operations: int | None = None, alter: Alter | None = None) -> None:
        self._behind = behind
        self._left = operations
        self._alter = alter
        self._lock = threading.Lock()
        self.asked: list[tuple[str, str]] = []

    @property
    def place(self) -> str:
        """What messages call it."""
        return self._behind.place

    def revive(self) -> None:
        """Live on for good."""
        self._left = None

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object, altered."""
        self._count("get", path)
        with self._behind.open(path, span) as body:
            yield self._alter(path, body) if self._alter else body

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the object; every second time that it dies of that, the write has happened."""
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
        """What lies in a folder."""
        self._count("list", folder)
        return self._behind.entries(folder)

    def delete(self, path: str) -> None:
        """Remove the object."""
        self._count("delete", path)
        self._behind.delete(path)

    def close(self) -> None:
        """Close the one behind."""
        self._behind.close()

    def _count(self, operation: str, path: str) -> None:
        with self._lock:
            self.asked.append((operation, path))
            if self._left is not None:
                if self._left <= 0:
                    raise died()
                self._left -= 1


class Altered:
    """Other bytes than were asked for: what `change` makes of the whole answer."""

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
    """An answer that does not end."""

    def read(self, count: int, /) -> bytes:
        """More of the same."""
        return b"\0" * count
