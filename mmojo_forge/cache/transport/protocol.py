"""Where a cache's files are: get, put, look, list and remove, whatever holds them.

Every path is made by `layout.py`. No object is large (packs are a few MiB), so that content is put as bytes; it is
got as a stream, so that nothing that a server sends is kept before it was found to be what it must be.
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
    """An answer that is being read."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes, as soon as there are any; none at the end. Raises CacheError."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an object: from which byte on, and how many."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One name in a folder; `modified` is in seconds since the epoch, 0 where nobody knows."""

    name: str
    size: int = 0
    modified: float = 0.0
    is_folder: bool = False


class Transport(Protocol):
    """What holds a cache's files. Safe to use from several threads; every method raises CacheError only."""

    @property
    def place(self) -> str:
        """What messages call it; no secrets."""

    def open(self, path: str, span: Span | None = None) -> AbstractContextManager[Body]:
        """The object, or a part of it: never more, but less where the object is shorter (`cache-missing`)."""

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Whether the object was written: it appears whole or not at all, and with `if_absent` never replaces one.

        A transport that cannot tell may write again what is there; callers put the same bytes, or do not mind.
        """

    def size(self, path: str) -> int | None:
        """The object's size, or None where there is none."""

    def entries(self, folder: str) -> list[Listed]:
        """What lies directly in a folder, in no order; nothing where there is none (`cache-no-listing`)."""

    def delete(self, path: str) -> None:
        """Remove the object, if it is there."""

    def close(self) -> None:
        """Let go of connections."""


def check_path(path: str) -> str:
    """The path; raises CacheError (`cache-path`) unless it is plain names with slashes between them."""
    if not all(_PART.fullmatch(part) for part in path.split("/")):
        raise CacheError(f"use {path[:80]!r} in a cache: not a path", reason="cache-path", fault=CacheFault.REFUSING)
    return path


def read_whole(transport: Transport, path: str, most: int) -> bytes:
    """The whole object; raises CacheError (`cache-too-large`) as soon as it proves to be longer than `most` bytes."""
    with transport.open(path) as body:
        return read_body(body, transport.place, path, most)


def read_body(body: Body, place: str, path: str, most: int) -> bytes:
    """All of an answer, as `read_whole`."""
    parts = []
    left = most
    while part := body.read(min(_BUFFER, left + 1)):
        left -= len(part)
        if left < 0:
            raise lying(place, path, f"longer than {most:,} bytes", "cache-too-large")
        parts.append(part)
    return b"".join(parts)


def read_exactly(body: Body, place: str, path: str, count: int) -> bytes:
    """The next `count` bytes; raises CacheError (`cache-truncated`) where the answer ends before."""
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
    """Read past `count` bytes."""
    while count > 0:
        count -= len(read_exactly(body, place, path, min(count, _BUFFER)))
