"""What is being written: files in a folder of this server alone, out of sight until they have their names.

    .serving/<random>/<random>

The folder is locked (flock) for as long as its server lives, so the next server to start can tell what a killed one
left behind from what a running one is busy with.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress

AREA = ".serving"
_BELOW = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 100


class Incoming:
    """The unfinished files of one server, below the folder with the descriptor `root`. Raises OSError."""

    def __init__(self, root: int) -> None:
        with suppress(FileExistsError):
            os.mkdir(AREA, 0o755, dir_fd=root)
        self._area = os.open(AREA, _BELOW, dir_fd=root)
        try:
            self._sweep()
            self._name, self.descriptor = self._claim()
        except BaseException:
            os.close(self._area)
            raise

    def create(self) -> tuple[str, int]:
        """A new empty file: its name here, and a descriptor to write and read it."""
        name = secrets.token_hex(16)
        return name, os.open(name, _NEW, 0o644, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, unless it is gone already: by a rename, or with the server."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """Remove everything, and let go of the folder."""
        _empty(self.descriptor)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=self._area)
        os.close(self.descriptor)
        os.close(self._area)

    def _claim(self) -> tuple[str, int]:
        """A folder of our own, locked. Another server that starts may sweep it away before it is."""
        for _ in range(_ATTEMPTS):
            name = secrets.token_hex(16)
            with suppress(FileNotFoundError):
                os.mkdir(name, 0o755, dir_fd=self._area)
                descriptor = os.open(name, _BELOW, dir_fd=self._area)
                if _lock(descriptor) and self._is_still(name, descriptor):
                    return name, descriptor
                os.close(descriptor)
        raise BlockingIOError(f"no folder of our own in {AREA}")

    def _is_still(self, name: str, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(name, dir_fd=self._area), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _sweep(self) -> None:
        """Remove the folders of servers that live no more."""
        for name in os.listdir(self._area):
            with suppress(FileNotFoundError, NotADirectoryError):
                descriptor = os.open(name, _BELOW, dir_fd=self._area)
                try:
                    if _lock(descriptor):
                        _empty(descriptor)
                        os.rmdir(name, dir_fd=self._area)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _empty(descriptor: int) -> None:
    for name in os.listdir(descriptor):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
