"""One lock per key, against threads and processes alike. Each key is one byte of a single file.

The locks are the kernel's locks on an open file description (`F_OFD_SETLK`). They exclude threads as well as
processes. The kernel releases them however the holder ends, so no lock is ever stale. A file per key is no
alternative: removing it is a race, and keeping it leaves a file for every key ever built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmojo_forge.store.protocol import OnWait

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.1
# struct flock on 64-bit Linux: type, whence, start, length, pid, padding.
_FLOCK = struct.Struct("hhqqi4x")


@contextmanager
def held(path: str, key: str, on_wait: OnWait | None = None, *, shared: bool = False) -> Iterator[None]:
    """Holds the key's lock in the file at `path`; with `shared`, others may hold it shared too."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for(fd, _offset(key), on_wait, fcntl.F_RDLCK if shared else fcntl.F_WRLCK)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, offset: int, on_wait: OnWait | None, kind: int) -> None:
    started = time.monotonic()
    pause = _FIRST_PAUSE
    request = _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
            return
        except (BlockingIOError, PermissionError):
            # POSIX lets the kernel report a held lock as EAGAIN or as EACCES. The loop polls instead of blocking
            # (F_OFD_SETLKW) so that it can report the wait and give up.
            if on_wait is not None:
                on_wait(time.monotonic() - started)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _offset(key: str) -> int:
    """The byte of the file that stands for the key: 62 bits of a digest, so that keys do not collide."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 2
