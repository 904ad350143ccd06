"""The served folder, the area for unfinished uploads, and the threads that wait for the disk.

`ServedFolder` opens files through directory descriptors and follows no links, so nothing outside the folder can be
reached. `Threads` keeps disk access off the event loop. `Incoming` holds unfinished uploads until they get their names:

    .serving/<random>/<random>

Each server locks its own random folder (flock) while it runs. So the next server to start can tell the leftovers of a
killed server from the files of a running one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mmojo_forge.cache.server.failure import ServeError
from mmojo_forge.cache.server.objects import folder_at, object_at
from mmojo_forge.cache.transport.protocol import Listed

_Done = TypeVar("_Done")


class Threads:
    """A pool of threads that wait for the disk."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "forge-serve")

    async def run(self, work: Callable[..., _Done], *given: object, **named: object) -> _Done:
        """The result of the work.

        A cancelled caller waits until the work is done: otherwise it could close a descriptor that the work still uses.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *given, **named))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Stop the threads after their current work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


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
        """A new empty file: its name in this area, and a descriptor for reading and writing."""
        name = secrets.token_hex(16)
        return name, os.open(name, _NEW, 0o644, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file if it still exists. It may have been renamed."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """Remove all unfinished files, and release the folder."""
        _empty(self.descriptor)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=self._area)
        os.close(self.descriptor)
        os.close(self._area)

    def _claim(self) -> tuple[str, int]:
        """A new folder, locked. Another server that starts may remove it before it is locked, so this tries again."""
        for _ in range(_ATTEMPTS):
            name = secrets.token_hex(16)
            with suppress(FileNotFoundError):
                os.mkdir(name, 0o755, dir_fd=self._area)
                descriptor = os.open(name, _BELOW, dir_fd=self._area)
                if _lock(descriptor) and self._is_still(name, descriptor):
                    return name, descriptor
                os.close(descriptor)
        raise BlockingIOError(f"cannot make and lock a folder in {AREA}")

    def _is_still(self, name: str, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(name, dir_fd=self._area), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def _sweep(self) -> None:
        """Remove the folders of servers that no longer run."""
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


# Without O_NONBLOCK, opening a named pipe would block for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class ServedFolder:
    """A cache's folder. A file with a name in it is complete and on the disk.

    Safe to use from several threads. Raises OSError. Only plain files below plain folders count as existing.
    """

    def __init__(self, root: Path, *, make: bool) -> None:
        try:
            if make:
                root.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ServeError(
                f"serve {root}: {error.strerror or error}",
                detail="Name a readable folder. With --token-file, name a folder that forge can write to or create.",
                reason="serve-folder",
            ) from error

    def is_there(self) -> bool:
        """Whether the folder still exists and can be read."""
        with suppress(OSError), os.scandir(self.descriptor) as found:
            next(found, None)
            return os.fstat(self.descriptor).st_nlink > 0
        return False

    def total(self) -> int:
        """The size of all files in bytes."""
        total = 0
        for _, _, files, folder in os.fwalk(".", dir_fd=self.descriptor):
            for name in files:
                with suppress(FileNotFoundError):
                    total += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
        return total

    def open(self, path: str) -> int | None:
        """A descriptor of the file, or None if it does not exist."""
        *folders, name = path.split("/")
        try:
            with self._descend(folders) as folder:
                descriptor = os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def size(self, path: str) -> int | None:
        """The file's size in bytes, or None if it does not exist."""
        *folders, name = path.split("/")
        try:
            with self._descend(folders) as folder:
                return _size(name, folder)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def entries(self, path: str) -> list[Listed] | None:
        """The objects and folders in a folder, sorted by name, or None if it does not exist."""
        listed: list[Listed] = []
        try:
            with self._descend(path.split("/")) as folder, os.scandir(folder) as found:
                for entry in found:
                    with suppress(FileNotFoundError):
                        listed += _listed(path, entry)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        return sorted(listed, key=lambda entry: entry.name)

    def remove(self, path: str) -> int | None:
        """Remove the file, and return its size in bytes, or None if it did not exist."""
        *folders, name = path.split("/")
        try:
            with self._descend(folders) as folder:
                size = _size(name, folder)
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
                return size or 0
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def publish(self, incoming: Incoming, temporary: str, path: str, *, replace: bool) -> int | None:
        """Give a finished file its name, and return the size of the file that it replaced.

        Returns None if the name is taken and `replace` is not set. Of several concurrent writers, one gets the name.
        """
        *folders, name = path.split("/")
        with self._descend(folders, make=True) as folder:
            if not replace and _link(incoming.descriptor, temporary, folder, name):
                before: int | None = 0
            else:
                before = _size(name, folder)
                if not replace and before is not None:
                    return None
                os.rename(temporary, name, src_dir_fd=incoming.descriptor, dst_dir_fd=folder)
            os.fsync(folder)
            return before or 0

    def close(self) -> None:
        """Close the folder's descriptor."""
        os.close(self.descriptor)

    @contextmanager
    def _descend(self, folders: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder below the root. Each step uses O_NOFOLLOW, so no link can lead outside."""
        descriptor = os.dup(self.descriptor)
        try:
            for name in folders:
                below = _enter(descriptor, name, make)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)


def _enter(folder: int, name: str, make: bool) -> int:
    try:
        return os.open(name, _BELOW, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
        os.fsync(folder)
    return os.open(name, _BELOW, dir_fd=folder)


def _size(name: str, folder: int) -> int | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _link(incoming: int, temporary: str, folder: int, name: str) -> bool:
    """Whether the file got the name. It did not if the name is taken, or the file system has no hard links."""
    try:
        os.link(temporary, name, src_dir_fd=incoming, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _listed(path: str, entry: os.DirEntry[str]) -> Iterator[Listed]:
    """The entry, if it is an object or a folder of the layout."""
    inner = f"{path}/{entry.name}"
    is_folder = entry.is_dir(follow_symlinks=False)
    if (is_folder and folder_at(inner)) or (entry.is_file(follow_symlinks=False) and object_at(inner)):
        status = entry.stat(follow_symlinks=False)
        yield Listed(entry.name, 0 if is_folder else status.st_size, status.st_mtime, is_folder=is_folder)
