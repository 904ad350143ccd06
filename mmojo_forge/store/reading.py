"""Content that is verified while it is read."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.store import objects

_BUFFER = 1 << 18


class _VerifiedFile(io.RawIOBase):
    """A file that raises at its end unless its content was what the digest says."""

    def __init__(self, root: str, digest: BlobDigest, file: io.FileIO) -> None:
        self._root = root
        self._digest = digest
        self._file = file
        self._hasher = blake3()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read the next bytes; they may be used only once the end was reached without an error."""
        view = memoryview(cast(bytearray, buffer))
        count = self._file.readinto(view)
        if count:
            self._hasher.update(view[:count])
        elif view.nbytes and self._hasher.hexdigest() != self._digest:
            raise objects.corrupt(self._root, self._digest)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def open_verified(root: str, path: str, digest: BlobDigest) -> BinaryIO:
    """The file's content; reading to the end raises StoreError (`blob-corrupt`) where it is not what it should be."""
    try:
        file = io.FileIO(path, "rb")
    except FileNotFoundError as error:
        raise objects.missing(root, digest) from error
    return io.BufferedReader(_VerifiedFile(root, digest, file), _BUFFER)


def read_part(path: str, offset: int, count: int) -> bytes:
    """Some bytes of a file; fewer at its end, none where it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)
