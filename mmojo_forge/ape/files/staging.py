"""Files and folders that appear whole, together, or not at all.

1. each is written beside its place, as .NAME.PID.tmp, locked by who writes it, and synced
2. `commit` renames all of them; a folder that is there is exchanged for the new one
3. what a killed process left lying is removed when the same thing is made the next time
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class _Staged:
    temporary: Path
    out: Path


class Staging:
    """What is being made. `what` names the operation in errors; without `durable` nothing waits for the disk."""

    def __init__(self, what: str, *, durable: bool = True) -> None:
        self._what = what
        self._durable = durable
        self._staged: list[_Staged] = []
        self._locks: list[int] = []
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for staged in self._staged:
            _remove(staged.temporary)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        for lock in self._locks:
            os.close(lock)
        if isinstance(error, OSError):
            raise self.failure(error, Path(error.filename or ".")) from error

    @contextmanager
    def file(self, out: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
        """A stream for the bytes of `out`; raises ApeError (`ape-disk-full`, `ape-output`)."""
        temporary = self._reserve(out)
        try:
            with os.fdopen(self._create(temporary), "w+b") as stream:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                if self._durable:
                    os.fsync(stream.fileno())
        except OSError as error:
            raise self.failure(error, out) from error

    def write(self, path: Path, fill: Callable[[BinaryIO], None], *, mode: int) -> None:
        """A file below a staged folder, or a spare one: `fill` writes its bytes to the stream."""
        try:
            with open(path, "x+b") as stream:
                fill(stream)
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                if self._durable:
                    os.fsync(stream.fileno())
        except OSError as error:
            raise self.failure(error, path) from error

    @contextmanager
    def spare(self, out: Path) -> Iterator[Path]:
        """A place beside `out` for what is needed only to make it."""
        folder = self.folder(out.with_name(f"{out.name}.parts"))
        try:
            yield folder / "part"
        finally:
            self._staged = [staged for staged in self._staged if staged.temporary != folder]
            _remove(folder)

    def folder(self, out: Path) -> Path:
        """An empty folder to fill, which becomes `out`."""
        temporary = self._reserve(out)
        try:
            os.close(self._create(temporary, folder=True))
        except OSError as error:
            raise self.failure(error, out) from error
        return temporary

    def twin(self, of: Path, out: Path) -> None:
        """`out` becomes the same file as `of`, which was staged before: by a hard link, or a copy where none can be."""
        staged = next(made for made in self._staged if made.out == of)
        temporary = self._reserve(out)
        link_or_copy(staged.temporary, temporary)

    def parents(self, folder: Path) -> None:
        """Makes `folder`; it goes again when it is empty in the end."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            self._made.append(path)

    def commit(self) -> None:
        """Lets all appear; raises ApeError."""
        for staged in self._staged:
            if staged.out.is_dir() and not staged.out.is_symlink() and not staged.temporary.is_dir():
                raise ApeError(f"{self._what} {staged.out}: it is a folder", reason=ApeReason.OUTPUT)
        for staged in self._staged:
            try:
                self._appear(staged)
            except OSError as error:
                raise self.failure(error, staged.out) from error
        if self._durable:
            for folder in {staged.out.parent for staged in self._staged}:
                _sync_folder(folder)
        self._made.clear()

    def _appear(self, staged: _Staged) -> None:
        if not staged.temporary.is_dir() or not os.path.lexists(staged.out):
            staged.temporary.replace(staged.out)
        elif not _exchange(staged.temporary, staged.out):
            # Two renames: a kill between them leaves both, under other names.
            aside = staged.temporary.with_suffix(".old")
            staged.out.replace(aside)
            staged.temporary.replace(staged.out)
            aside.replace(staged.temporary)

    def failure(self, error: OSError, path: Path) -> ApeError:
        """`error` as one of ours."""
        if error.errno in _FULL:
            free = _free_space(path)
            return ApeError(
                f"{self._what} {path}: {error.strerror}",
                detail=f"There are {free / 1e9:.1f} GB free there now. What was there before is as it was.",
                reason=ApeReason.DISK_FULL,
            )
        return ApeError(f"{self._what} {path}: {error.strerror or error}", reason=ApeReason.OUTPUT)

    def _reserve(self, out: Path) -> Path:
        _clear_leftovers(out)
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        self._staged.append(_Staged(temporary, out))
        return temporary

    def _create(self, path: Path, *, folder: bool = False) -> int:
        """A descriptor of the new file or folder, which is locked to the end, also when this one is closed."""
        while True:
            if folder:
                path.mkdir()
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            else:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            lock = os.dup(descriptor)
            self._locks.append(lock)
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return descriptor
            # Another process took it for a leftover before it was locked.
            os.close(descriptor)


def link_or_copy(source: Path, to: Path) -> None:
    """`to` becomes the same file as `source`, or a copy of it; raises OSError."""
    try:
        os.link(source, to)
    except OSError as error:
        if error.errno in _FULL:
            raise
        shutil.copy2(source, to)


def _clear_leftovers(out: Path) -> None:
    for found in glob.glob(f".{glob.escape(out.name)}.*.tmp", root_dir=out.parent):
        if found[len(out.name) + 2 : -4].isdigit():
            _remove_unlocked(out.with_name(found))


def _remove_unlocked(path: Path) -> None:
    """Removes what nobody writes, on this machine or on another that shares the file system."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the two names were exchanged in one step: renameat2(2), which Python's `os` does not offer."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(path: Path) -> int:
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


@contextmanager
def replace_file(out: Path, *, mode: int, what: str) -> Iterator[BinaryIO]:
    """A stream whose bytes become `out` when the block ends well; else `out` is as it was and nothing is left.

    Raises ApeError (`ape-disk-full`, `ape-output`).
    """
    with Staging(what) as staging:
        with staging.file(out, mode=mode) as stream:
            yield stream
        staging.commit()
