"""Turns failing system calls and SQLite errors into StoreErrors with a reason."""

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
    """Raises OSErrors and SQLite errors of the body as StoreErrors.

    `operation` begins the message; `place` is the store; `needed` is the bytes the operation needs, if known.
    """
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
        detail = f"The user who runs forge must own the store {place} and be able to write to it."
        return StoreUnusableError(message, detail=detail, reason="store-permission")
    return StoreUnusableError(message, detail=f"The store is {place}.", reason="store-io")


def _of_database(error: sqlite3.Error, operation: str, place: str) -> StoreError:
    # The low byte is the primary result code; extended codes add detail above it.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return disk_full(operation, place, None)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnusableError(
            f"{operation}: another process keeps the database of {place} locked", reason="store-busy"
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        detail = f"Move {place} aside. Forge then fetches what caches and mirrors have, and builds the rest again."
        return StoreUnusableError(
            f"{operation}: the database of {place} is damaged", detail=detail, reason="store-corrupt"
        )
    return StoreUnusableError(f"{operation}: {error} in the database of {place}", reason="store-io")


def disk_full(operation: str, place: str, needed: int | None) -> StoreError:
    """The error for a full disk or quota, with the free space and, if known, the space needed (bytes)."""
    wanted = f", and up to {needed:,} bytes are needed" if needed is not None else ""
    return StoreUnusableError(
        f"{operation}: no space left for {place}: {_free(place):,} bytes are free{wanted}",
        detail="Free some space, or set FORGE_STORE to a folder on a larger disk, and start again. Nothing is lost.",
        reason="disk-full",
    )


def _free(place: str) -> int:
    try:
        status = os.statvfs(place)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
