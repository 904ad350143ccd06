"""Reads content over http, https or from a file: as a stream from an offset on, or whole as a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.url import path_of, scheme_of

CHUNK = 1 << 17
_LARGEST_DOCUMENT = 64 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stream:
    """An open answer. `start` is the offset of its first byte; `total` the size of the whole file, if known."""

    url: str
    start: int
    total: int | None
    content_type: str
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document. `url` is where the redirects ended; relative links start from it."""

    url: str
    content_type: str
    body: bytes

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


@contextmanager
def open_stream(
    client: HttpClient, url: str, *, start: int = 0, headers: Mapping[str, str] | None = None
) -> Iterator[Stream]:
    """The content from `start` on, or from 0 if the server's answer does not fit; raises UrlFailure."""
    client.cancellation.check(url)
    scheme = scheme_of(url)
    if scheme == "file":
        with _open_file(url, start) as stream:
            yield stream
    elif scheme in {"http", "https"}:
        with _open_http(client, url, start, headers or {}) as stream:
            yield stream
    else:
        raise UrlFailure(url, FailureKind.REFUSED, f"cannot fetch the scheme {scheme!r}")


def read_document(client: HttpClient, url: str, *, accept: str = "*/*", limit: int = _LARGEST_DOCUMENT) -> Document:
    """The document at `url`; raises UrlFailure, also where it is larger than `limit` bytes."""
    return with_retries(client, lambda: _read_document(client, url, accept, limit))


def read_head(client: HttpClient, url: str, size: int) -> bytes:
    """At least the first `size` bytes, or the whole of a shorter file; raises UrlFailure."""
    return with_retries(client, lambda: _read_head(client, url, size))


def with_retries(client: HttpClient, operation: Callable[[], _T]) -> _T:
    """The result of `operation`, which is tried again after transient failures; raises its last UrlFailure.

    The pause between tries doubles each time. A server can ask for a longer one, up to `longest_pause_seconds`.
    """
    settings = client.settings
    for attempt in range(1, settings.attempts + 1):
        try:
            return operation()
        except UrlFailure as failure:
            if not failure.transient or attempt == settings.attempts:
                raise
            pause = max(settings.backoff_seconds * 2 ** (attempt - 1), failure.retry_after or 0.0)
            client.cancellation.pause(min(pause, settings.longest_pause_seconds))
    raise AssertionError("settings.attempts is at least 1")


@contextmanager
def _open_http(client: HttpClient, url: str, start: int, headers: Mapping[str, str]) -> Iterator[Stream]:
    with ExitStack() as stack:
        ranged = {**headers, "Range": f"bytes={start}-"} if start else headers
        answer = stack.enter_context(client.exchange("GET", url, ranged))
        if start and answer.status == 200:
            # The server does not support ranges, and sends the whole file.
            start = 0
        elif start and (answer.status == 416 or (answer.status == 206 and answer.first_byte != start)):
            # 416: the local part is at least as long as the server's file, so it cannot be the beginning of that.
            stack.close()
            start = 0
            answer = stack.enter_context(client.exchange("GET", url, headers))
        answer.check()
        if answer.first_byte != start:
            raise UrlFailure(url, FailureKind.REFUSED, "the server sent another range than requested")
        total = None if answer.length is None else start + answer.length
        chunks = iter(lambda: answer.read(CHUNK), b"")
        yield Stream(answer.url, start, total, answer.headers.get("Content-Type", ""), chunks)


@contextmanager
def _open_file(url: str, start: int) -> Iterator[Stream]:
    path = path_of(url)
    try:
        file = path.open("rb")
    except OSError as error:
        kind = FailureKind.GONE if isinstance(error, FileNotFoundError) else FailureKind.REFUSED
        raise UrlFailure(url, kind, error.strerror or "cannot be opened") from error
    with file:
        total = path.stat().st_size
        start = start if start <= total else 0
        file.seek(start)
        yield Stream(url, start, total, _content_type_of(path), iter(lambda: file.read(CHUNK), b""))


def _content_type_of(path: Path) -> str:
    return "text/html" if path.suffix == ".html" else ""


def _read_document(client: HttpClient, url: str, accept: str, limit: int) -> Document:
    body = bytearray()
    with open_stream(client, url, headers={"Accept": accept}) as stream:
        for chunk in stream.chunks:
            body += chunk
            if len(body) > limit:
                raise UrlFailure(url, FailureKind.TOO_LARGE, f"the document is larger than {limit} bytes")
        if stream.total is not None and len(body) < stream.total:
            raise UrlFailure(url, FailureKind.TRUNCATED, f"ended after {len(body)} of {stream.total} bytes")
        return Document(stream.url, stream.content_type, bytes(body))


def _read_head(client: HttpClient, url: str, size: int) -> bytes:
    head = bytearray()
    with open_stream(client, url) as stream:
        for chunk in stream.chunks:
            head += chunk
            if len(head) >= size:
                break
    return bytes(head)
