"""Renaming without replacing: renameat2(2) with RENAME_NOREPLACE, which Python's `os` does not offer."""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_NOREPLACE = 1
# Older C libraries have no wrapper for the call.
_RENAMEAT2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def rename_new(source: str, source_fd: int, target: str, target_fd: int) -> None:
    """Give a file its name, relative to directory descriptors; raises FileExistsError if the name is taken.

    Where the C library or the file system has no such rename, a hard link does the same in two steps.
    """
    code = _renameat2(source, source_fd, target, target_fd)
    if code in (errno.EINVAL, errno.ENOSYS):
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        os.unlink(source, dir_fd=source_fd)
    elif code:
        raise OSError(code, os.strerror(code), target)


def _renameat2(source: str, source_fd: int, target: str, target_fd: int) -> int:
    """The error number, 0 for success."""
    if _RENAMEAT2 is None:
        return errno.ENOSYS
    done = _RENAMEAT2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), _RENAME_NOREPLACE)
    return ctypes.get_errno() if done else 0
