"""How failing system calls and SQLite errors become StoreErrors with a reason."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mmojo_forge.store.protocol import StoreError, StoreUnusableError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def reported(operation: str, place: str, *, needed: int | None = None) -> Iterator[None]:
    """Raise OSError and SQLite errors of the body as StoreErrors. `needed` is bytes, where that is known."""
    try:
        yield
    except OSError as error:
        raise _of_system(error, operation, place, needed) from error
    except sqlite3.Error as error:
        raise _of_database(error, operation, place) from error


def _of_system(error: OSError, operation: str, place: str, needed: int | None) -> StoreError:
    if error.errno in _FULL:
        return disk_full(operation, place, needed)
    message = f"{operation}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in _FORBIDDEN:
        detail = f"The store {place} must belong to and be writable for the user who runs forge."
        return StoreUnusableError(message, detail=detail, reason="store-permission")
    return StoreUnusableError(message, detail=f"The store is {place}.", reason="store-io")


def _of_database(error: sqlite3.Error, operation: str, place: str) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return disk_full(operation, place, None)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnusableError(f"{operation}: the database of {place} stays locked", reason="store-busy")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        detail = f"Move {place} aside; what caches and mirrors hold is fetched again, the rest is built anew."
        return StoreUnusableError(
            f"{operation}: the database of {place} is damaged", detail=detail, reason="store-corrupt"
        )
    return StoreUnusableError(f"{operation}: {error} in the database of {place}", reason="store-io")


def disk_full(operation: str, place: str, needed: int | None) -> StoreError:
    """The error for a full disk or quota; says what is free, and what was needed where that is known."""
    wanted = f" of the {needed:,} bytes it needs at most" if needed is not None else ""
    return StoreUnusableError(
        f"{operation}: no space left for {place}{wanted}, {_free(place):,} bytes are free",
        detail="Free some space, or let FORGE_STORE point to a larger disk, and start again: nothing is lost.",
        reason="disk-full",
    )


def _free(place: str) -> int:
    try:
        status = os.statvfs(place)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
