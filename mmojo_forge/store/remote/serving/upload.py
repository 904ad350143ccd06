"""One object on its way in: written out of sight, verified, and then given its name, or dropped without a trace."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from mmojo_forge.store.remote.serving.failure import Refusal
from mmojo_forge.store.remote.serving.folder import ServedFolder
from mmojo_forge.store.remote.serving.incoming import Incoming
from mmojo_forge.store.remote.serving.objects import CacheObject
from mmojo_forge.store.remote.serving.verify import Verifier


class Quota:
    """How many bytes the cache may have (any number, without `most`), and how many it has."""

    def __init__(self, most: int | None, used: int = 0) -> None:
        self._most = most
        self._used = used

    def take(self, count: int) -> None:
        """Count bytes in; raises Refusal (507) where they would be too many."""
        if self._most is not None and self._used + count > self._most:
            raise Refusal(507, "full", f"the cache may have {self._most:,} bytes, and has {self._used:,}")
        self._used += count

    def give(self, count: int) -> None:
        """Count bytes out."""
        self._used -= count


class Upload:
    """A context manager: at its end there is nothing but the object, or what was there before.

    Its methods wait for the disk, and raise OSError. The quota belongs to the event loop's thread and is not theirs.
    """

    def __init__(self, folder: ServedFolder, incoming: Incoming, wanted: CacheObject) -> None:
        self._folder = folder
        self._incoming = incoming
        self._wanted = wanted
        self._verifier = Verifier(wanted)
        self._name, self._descriptor = incoming.create()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self._incoming.remove(self._name)

    def write(self, block: bytes) -> None:
        """Add to it."""
        self._verifier.update(block)
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self, *, replace: bool) -> int | None:
        """Give it its name, durably; the bytes that were there before, None where the name is taken and it must not
        `replace`. Raises Refusal (422) for what is not what it must be."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            self._verifier.verify(file)
        os.fsync(self._descriptor)
        return self._folder.publish(self._incoming, self._name, self._wanted.stored, replace=replace)
