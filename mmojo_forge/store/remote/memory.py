"""A cache in memory, for tests."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmojo_forge.store.remote.failure import missing
from mmojo_forge.store.remote.transport import Body, Listed, Span, check_path


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
