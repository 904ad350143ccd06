"""One lock per key, against threads and processes alike: each key stands for one byte of a single file.

These are the kernel's locks on an open file description (`F_OFD_SETLK`): they exclude threads as well as processes, and
end with the holder, however it ends, so that none is ever stale. A file per key would have to be removed some day,
which is a race, or be kept for ever, which is litter.
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
_FLOCK = struct.Struct("hhqqi4x")


@contextmanager
def held(path: str, key: str, on_wait: OnWait | None = None, *, shared: bool = False) -> Iterator[None]:
    """Hold the key's lock in the file at `path`; `shared` with all others who hold it so."""
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
            # POSIX lets a held lock be reported as either of EAGAIN and EACCES.
            if on_wait is not None:
                on_wait(time.monotonic() - started)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _offset(key: str) -> int:
    """Which byte stands for the key; 62 bits of a digest, so that two keys never meet."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 2
