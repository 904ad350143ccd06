"""A transport to a folder, on a local disk or a mounted share. A web server may serve the same folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmojo_forge.cache.failure import CacheError, CacheFault, missing
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, check_path

INCOMING = ".incoming"
"""The folder for unfinished writes. Its files are not part of the cache."""
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# Errors of file systems without hard links, such as FAT and some network shares.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class FolderTransport:
    """The files below `root`. An object appears under its name only after all of it is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)

    @property
    def place(self) -> str:
        """The location for messages."""
        return self._root

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The file or a part of it."""
        with self._reported("read", path):
            fd = os.open(self._path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield _FileBody(self, path, fd, span)
        finally:
            os.close(fd)

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the file, and return when it is on the disk."""
        target = self._path(path)
        with self._reported("write", path):
            if if_absent and os.path.lexists(target):
                return False
            temporary = self._write(content)
            try:
                return self._publish(temporary, target, if_absent)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def size(self, path: str) -> int | None:
        """The file's size."""
        with self._reported("look for", path):
            try:
                return os.stat(self._path(path), follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def entries(self, folder: str) -> list[Listed]:
        """The entries of the folder."""
        listed = []
        with (
            self._reported("list", folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self._path(folder)) as found,
        ):
            for entry in found:
                status = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                listed.append(Listed(entry.name, status.st_size, status.st_mtime, is_folder=is_folder))
        return listed

    def delete(self, path: str) -> None:
        """Remove the file."""
        with self._reported("remove", path), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(path))

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def read(self, path: str, fd: int, count: int) -> bytes:
        """The next bytes of an open file; raises CacheError."""
        with self._reported("read", path):
            return os.read(fd, count)

    def _path(self, path: str) -> str:
        return os.path.join(self._root, check_path(path))

    def _write(self, content: bytes) -> str:
        incoming = os.path.join(self._root, INCOMING)
        os.makedirs(incoming, exist_ok=True)
        temporary = os.path.join(incoming, secrets.token_hex(16))
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        return temporary

    def _publish(self, temporary: str, target: str, if_absent: bool) -> bool:
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        # Unlike a rename, a hard link never replaces a file that another writer put there first.
        if not (if_absent and self._link(temporary, target)):
            if if_absent and os.path.lexists(target):
                return False
            os.rename(temporary, target)
        # Without this, a power failure could lose the new name.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return True

    def _link(self, temporary: str, target: str) -> bool:
        """Whether the link was made. It was not if the target exists, or the file system has no hard links."""
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    @contextmanager
    def _reported(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise missing(self.place, path) from error
        except OSError as error:
            refused = error.errno in _FORBIDDEN
            raise CacheError(
                f"{verb} {path} in {self.place}: {error.strerror or error}",
                reason="cache-refused" if refused else "cache-io",
                fault=CacheFault.REFUSING if refused else CacheFault.FAILING,
            ) from error


class _FileBody:
    """An open file, or a part of it."""

    def __init__(self, transport: FolderTransport, path: str, fd: int, span: Span | None) -> None:
        self._transport = transport
        self._path = path
        self._fd = fd
        self._left = span.length if span else None
        if span:
            os.lseek(fd, span.start, os.SEEK_SET)

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        if self._left is None:
            return self._transport.read(self._path, self._fd, count)
        part = self._transport.read(self._path, self._fd, min(count, self._left))
        self._left -= len(part)
        return part
