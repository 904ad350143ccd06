"""Writing one small file so that it is there whole or not at all, also after a crash or a power cut.

Every layer may use this. The store has a protocol of its own (`store/README.md`), and so has the evaluation cache,
which imports next to nothing and where a lost entry costs only time.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Some network file systems cannot sync a folder, and one that may be written to but not listed cannot be opened.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})


def write_atomically(path: Path, data: bytes, *, mode: int | None = None, replace: bool = True) -> None:
    """Make `data` the content of the file at `path`; raises OSError, and then the old file is as it was.

    A link is followed: the file it names is replaced, or made. Without a `mode`, a file keeps the permissions that it
    had, and a new one gets the usual ones. A `mode` holds from the moment in which the file is made: nobody else can
    read a secret at any time.
    Without `replace` a file that is there already is a FileExistsError, whoever else makes it at the same moment.
    """
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    if before is not None and not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if before is not None and not stat.S_ISREG(before.st_mode):
        # A pipe, a terminal, /dev/null: what is renamed onto it would take its place.
        path.write_bytes(data)
        return
    if mode is None and before is not None:
        mode = before.st_mode & 0o777
    target = os.path.realpath(path)
    # Not made of the file's own name, which may be as long as a name can be.
    temporary = os.path.join(os.path.dirname(target), f".{os.urandom(8).hex()}.tmp")
    try:
        _write(temporary, data, mode)
        if replace:
            os.rename(temporary, target)
        else:
            os.link(temporary, target)
            os.unlink(temporary)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _write(path: str, data: bytes, mode: int | None) -> None:
    # Made with the final permissions, not given them later: somebody may open it in between, and keep it open.
    with os.fdopen(os.open(path, _NEW, 0o666 if mode is None else mode), "wb") as file:
        if mode is not None:
            # The umask may have taken some away.
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
    """Let the new name survive a power cut."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
