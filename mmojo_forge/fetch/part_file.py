"""The file a download grows in: hashed while it is written, and again when it is taken up where it was left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from mmojo_forge.fetch.digests import Digests, Expected
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.http import CHUNK


class PartFile:
    """`<destination>.part`, open. `digests` always cover exactly the bytes that are in it.

    `mixed` says that its bytes come from more than one answer, so that a wrong hash may be nobody's fault but ours.
    A beginning left by an earlier run is kept only where a digest will tell in the end whether it belonged.
    """

    def __init__(self, destination: Path, expected: Expected) -> None:
        self.path = destination.with_name(destination.name + ".part")
        self.mixed = False
        self.digests = Digests(expected.digests)
        self._destination = destination
        self._expected = expected
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._write_error(error) from error
        self._file = os.fdopen(descriptor, "r+b", buffering=0)

    def __enter__(self) -> Self:
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """How many bytes are in it."""
        return self.digests.size

    @property
    def complete(self) -> bool:
        """Whether nothing has to be downloaded any more."""
        return bool(self._expected.digests) and self.size == self._expected.size

    def write(self, chunk: bytes) -> None:
        """Append; raises FetchError (`disk-full`, `write-failed`)."""
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._write_error(error) from error
        self.digests.update(chunk)

    def restart(self) -> None:
        """Throw away what is in it."""
        self._file.seek(0)
        self._file.truncate(0)
        self.digests = Digests(self._expected.digests)
        self.mixed = False

    def finish(self) -> None:
        """Move it to the destination, replacing what is there."""
        self.path.replace(self._destination)

    def set_aside(self) -> Path:
        """Move it to `<destination>.mismatch`, and say so."""
        kept = self._destination.with_name(self._destination.name + ".mismatch")
        self.path.replace(kept)
        return kept

    def _take_up(self) -> None:
        here = os.fstat(self._file.fileno()).st_size
        limit = self._expected.size
        if not here:
            return
        if not self._expected.digests or (limit is not None and here > limit):
            self.restart()
            return
        self.mixed = True
        while chunk := self._file.read(CHUNK):
            self.digests.update(chunk)

    def _write_error(self, error: OSError) -> FetchError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return FetchError(
            f"write {self.path}: {error.strerror}",
            detail="Free some space and try again: what has arrived is kept." if full else "",
            reason="disk-full" if full else "write-failed",
        )
