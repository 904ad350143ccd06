"""The files below a folder, through descriptors: nothing outside can be reached, no link is followed.

Waiting for the disk apart from the event loop.

What is being written: files in a folder of this server alone, out of sight until they have their names.

    .serving/<random>/<random>

The folder is locked (flock) for as long as its server lives, so the next server to start can tell what a killed one
left behind from what a running one is busy with.
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
    """A few threads that wait for the disk."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "forge-serve")

    async def run(self, work: Callable[..., _Done], *given: object, **named: object) -> _Done:
        """What the work gives. Whoever is cancelled meanwhile goes on when the work is done: it may still use a
        descriptor that would be closed next."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *given, **named))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Let go of the threads, when they have done what they are at."""
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


# Without O_NONBLOCK, opening a named pipe that somebody put there would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class ServedFolder:
    """A cache's folder. Callers may assume that what has a name is whole and on the disk.

    Safe to use from several threads. Raises OSError; what is no plain file below plain folders is not there.
    """

    def __init__(self, root: Path, *, make: bool) -> None:
        try:
            if make:
                root.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ServeError(
                f"serve {root}: {error.strerror or error}",
                detail="Name a folder that can be read, or one to write to with --token-file.",
                reason="serve-folder",
            ) from error

    def is_there(self) -> bool:
        """Whether the folder can still be read, and has not been removed."""
        with suppress(OSError), os.scandir(self.descriptor) as found:
            next(found, None)
            return os.fstat(self.descriptor).st_nlink > 0
        return False

    def total(self) -> int:
        """The bytes of all objects."""
        total = 0
        for _, _, files, folder in os.fwalk(".", dir_fd=self.descriptor):
            for name in files:
                with suppress(FileNotFoundError):
                    total += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
        return total

    def open(self, path: str) -> int | None:
        """A descriptor of the file, if there is one."""
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
        """The file's size, if there is one."""
        *folders, name = path.split("/")
        try:
            with self._descend(folders) as folder:
                return _size(name, folder)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def entries(self, path: str) -> list[Listed] | None:
        """The objects and folders in a folder, by name, if there is one."""
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
        return sorted(listed, key=lambda one: one.name)

    def remove(self, path: str) -> int | None:
        """Remove the file; the bytes that it had, if there was one."""
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
        """Give a finished file its name; the bytes that were there before. None where the name is taken, without
        `replace`: of several who come at once, one gets it."""
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
        """Let go of the folder."""
        os.close(self.descriptor)

    @contextmanager
    def _descend(self, folders: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder below."""
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
    """Whether the file got the name: not where it is taken, or where the file system has no links."""
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
