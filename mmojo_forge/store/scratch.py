"""The scratch directory that each process has in tmp/, and the removal of directories with arbitrary content.

A process holds a lock on its directory while it lives. Before it publishes files it names them in an *intent* there.
When a process finds a directory unlocked, the owner is dead, and the intents say which files may lack a row.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from mmojo_forge.store import layout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Each level takes a descriptor and a stack frame, and a build may nest directories without limit.
_DEEPEST = 64
_SWEEPERS = 2


class ProcessScratch:
    """The process's own directory in tmp/, locked until `close`. Needs `open.lock` while it is made.

    The process empties intents and uses them again instead of removing them: ext4 is slow to allocate inodes right
    after others were freed.
    """

    def __init__(self, tmp: str, *, leasing: bool = True) -> None:
        self._tmp = tmp
        self.leasing = leasing
        since = str(int(time.time())) if leasing else layout.UNLEASED
        self._name = f"{os.getpid()}-{since}-{secrets.token_hex(6)}"
        self._lock = threading.Lock()
        self._count = 0
        self._idle_intents: list[str] = []
        self._sweepers = ThreadPoolExecutor(_SWEEPERS, "forge-sweep")
        self._using = -1
        self.path = os.path.join(tmp, self._name)
        os.mkdir(self.path, 0o700)
        self.fd = os.open(self.path, _DIRECTORY)
        # The kernel releases the lock when the process dies. A pid file would not do: pids are used again.
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def new_name(self, prefix: str) -> str:
        """A name in the directory that nothing uses yet."""
        with self._lock:
            self._count += 1
            return f"{prefix}-{self._count}"

    def note_intent(self, paths: Iterable[str]) -> str:
        """The name of a new intent, which lists the paths that the process is about to publish or remove."""
        with self._lock:
            name = self._idle_intents.pop() if self._idle_intents else None
        name = name or self.new_name(layout.INTENT)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
        try:
            write_all(fd, "".join(f"{path}\n" for path in paths).encode())
        finally:
            os.close(fd)
        return name

    def drop_intent(self, name: str) -> None:
        """Empty the intent: its paths are published, or undone."""
        fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        os.close(fd)
        with self._lock:
            self._idle_intents.append(name)

    def note_use(self, trees: Iterable[str]) -> None:
        """Add trees to the lease of the process, which lasts as long as the directory."""
        if not self.leasing:
            return
        with self._lock:
            if self._using < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._using = os.open(layout.USING, flags, 0o600, dir_fd=self.fd)
            write_all(self._using, "".join(f"{tree}\n" for tree in trees).encode())

    @property
    def name(self) -> str:
        """The name of the directory in tmp/."""
        return self._name

    def discard(self, name: str) -> None:
        """Remove the file or directory `name` in the background, before `close` returns."""
        # With the mount option `discard`, removing a directory waits for the disk, for milliseconds each time.
        self._sweepers.submit(remove_tree, self.path, name)

    def close(self) -> None:
        """Remove the directory with all its content."""
        self._sweepers.shutdown(cancel_futures=True)
        if self._using >= 0:
            os.close(self._using)
            self._using = -1
        if self.fd >= 0:
            remove_tree(self._tmp, self._name)
            os.close(self.fd)
            self.fd = -1


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`."""
    # A nearly full disk writes a part before it reports ENOSPC.
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


@contextmanager
def locked(tmp: str, name: str, mode: int) -> Iterator[None]:
    """Holds one of the store's lock files in tmp/, shared or exclusively. Lock files are never removed."""
    fd = os.open(os.path.join(tmp, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, mode)
        yield
    finally:
        os.close(fd)


def processes(tmp: str) -> Iterator[tuple[str, float]]:
    """The directory names of processes in tmp/, and their start times in seconds since the epoch.

    Includes dead processes that nobody has cleaned up yet. A process without leases has the start time infinity, so it
    never holds back the collector.
    """
    for entry in os.scandir(tmp):
        if entry.is_dir(follow_symlinks=False):
            _, _, since = entry.name.partition("-")
            started = since.partition("-")[0]
            never = float("inf") if started == layout.UNLEASED else 0.0
            yield entry.name, float(started) if started.isdecimal() else never


def dead_processes(tmp: str) -> Iterator[str]:
    """The names in tmp/ whose owners are dead, each locked while the caller handles it. Needs `open.lock`."""
    for name in os.listdir(tmp):
        if name in {layout.OPEN_LOCK, layout.PUBLISH_LOCK}:
            continue
        try:
            fd = os.open(os.path.join(tmp, name), _DIRECTORY)
        except NotADirectoryError:
            os.unlink(os.path.join(tmp, name))
            continue
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield name
        except BlockingIOError:
            continue
        finally:
            os.close(fd)


def throw_away(root: str, process: ProcessScratch, path: str) -> None:
    """Move a file or directory out of the store at once; it is removed in the background."""
    source = os.path.join(root, path)
    name = process.new_name("gone")
    target = os.path.join(process.path, name)
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return
    except PermissionError:
        # An ordinary user can move a directory to another parent only if it is writable.
        os.chmod(source, 0o700)
        os.rename(source, target)
    process.discard(name)


def remove_tree(parent: str, name: str) -> None:
    """Remove `name` in the directory `parent`, whatever a build left in it. Follows no symlink."""
    parent_fd = os.open(parent, _DIRECTORY)
    try:
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            _empty(parent_fd, name)
            os.rmdir(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent_fd)


def _empty(parent_fd: int, name: str) -> None:
    """Empty a directory. Moves directories that lie too deep for recursion and descriptors to the top first."""
    top_fd = _open_directory(parent_fd, name)
    try:
        lifted = True
        while lifted:
            lifted = _empty_level(top_fd, top_fd, 0)
    finally:
        os.close(top_fd)


def _empty_level(fd: int, top_fd: int, depth: int) -> bool:
    lifted = False
    for name, is_directory in [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in _scan(fd)]:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif depth >= _DEEPEST:
            os.close(_open_directory(fd, name))
            os.rename(name, f".lifted-{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top_fd)
            lifted = True
        else:
            child_fd = _open_directory(fd, name)
            try:
                lifted |= _empty_level(child_fd, top_fd, depth + 1)
            finally:
                os.close(child_fd)
            os.rmdir(name, dir_fd=fd)
    return lifted


def _scan(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        yield from entries


def _open_directory(parent_fd: int, name: str) -> int:
    """A descriptor of the directory, made writable: objects are read-only, and builds leave read-only directories."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except PermissionError:
        # chmod would follow a symlink that appears here at this moment. Only the dead owner or we could make one.
        os.chmod(name, 0o700, dir_fd=parent_fd)
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    os.fchmod(fd, 0o700)
    return fd
