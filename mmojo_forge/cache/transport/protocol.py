"""The protocol of a transport, which reads, writes, lists and removes a cache's files.

`layout.py` makes all paths. Objects are small (packs have a few MiB), so `put` takes bytes. `open` gives a stream,
so that a reader can verify content and enforce limits while it arrives.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mmojo_forge.cache.failure import CacheError, CacheFault, lying, truncated

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,220}")
_BUFFER = 1 << 17


class Body(Protocol):
    """The content of an object, read as a stream."""

    def read(self, count: int, /) -> bytes:
        """Up to `count` bytes, as soon as some arrive; empty at the end. Raises CacheError."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an object: its first byte and its length in bytes."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a folder. `modified` is in seconds since the epoch, or 0 if unknown."""

    name: str
    size: int = 0
    modified: float = 0.0
    is_folder: bool = False


class Transport(Protocol):
    """The storage of a cache's files. Safe to use from several threads. Every method raises CacheError only."""

    @property
    def place(self) -> str:
        """The location for messages, without secrets."""

    def open(self, path: str, span: Span | None = None) -> AbstractContextManager[Body]:
        """The object or a part of it, which is shorter where the object ends; raises `cache-missing`."""

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the object atomically, and return whether it was written. `if_absent` keeps an existing object.

        Some servers have no conditional write, so a race can replace the object nonetheless. Callers either write the
        same bytes or tolerate that.
        """

    def size(self, path: str) -> int | None:
        """The object's size in bytes, or None if it does not exist."""

    def entries(self, folder: str) -> list[Listed]:
        """The direct entries of a folder in any order; none if it does not exist. Raises `cache-no-listing`."""

    def delete(self, path: str) -> None:
        """Remove the object if it exists."""

    def close(self) -> None:
        """Close all connections."""


def check_path(path: str) -> str:
    """The path, if it consists of plain names and slashes; raises CacheError (`cache-path`) otherwise.

    Plain names begin with a letter or digit, so `..` and hidden files are impossible.
    """
    if not all(_PART.fullmatch(part) for part in path.split("/")):
        raise CacheError(
            f"use {path[:80]!r} in a cache: not a valid path", reason="cache-path", fault=CacheFault.REFUSING
        )
    return path


def read_whole(transport: Transport, path: str, most: int) -> bytes:
    """The whole object; raises CacheError (`cache-too-large`) as soon as more than `most` bytes arrive."""
    with transport.open(path) as body:
        return read_body(body, transport.place, path, most)


def read_body(body: Body, place: str, path: str, most: int) -> bytes:
    """The rest of an open object, with the same limit and error as `read_whole`."""
    parts = []
    left = most
    while part := body.read(min(_BUFFER, left + 1)):
        left -= len(part)
        if left < 0:
            raise lying(place, path, f"longer than {most:,} bytes", "cache-too-large")
        parts.append(part)
    return b"".join(parts)


def read_exactly(body: Body, place: str, path: str, count: int) -> bytes:
    """The next `count` bytes; raises CacheError (`cache-truncated`) if the object ends earlier."""
    first = body.read(count)
    if len(first) == count:
        return first
    parts = [first]
    got = len(first)
    while got < count:
        part = body.read(count - got)
        if not part:
            raise truncated(place, path, got, count)
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def skip(body: Body, place: str, path: str, count: int) -> None:
    """Skip `count` bytes; raises CacheError (`cache-truncated`)."""
    while count > 0:
        count -= len(read_exactly(body, place, path, min(count, _BUFFER)))
