"""Small documents: index pages and package descriptions, read whole, within a limit."""

from __future__ import annotations

from dataclasses import dataclass

from mmojo_forge.fetch.failure import Kind, UrlFailure
from mmojo_forge.fetch.http import HttpClient
from mmojo_forge.fetch.retry import with_retries

LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it came; `url` is where redirects ended, which relative links are relative to."""

    url: str
    content_type: str
    body: bytes

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


def read_document(client: HttpClient, url: str, *, accept: str = "*/*", limit: int = LIMIT) -> Document:
    """The document at `url`; raises UrlFailure, also when it is larger than `limit`."""
    return with_retries(client, lambda: _read(client, url, accept, limit))


def read_head(client: HttpClient, url: str, size: int) -> bytes:
    """At least the first `size` bytes, or all there are; raises UrlFailure."""
    return with_retries(client, lambda: _read_head(client, url, size))


def _read(client: HttpClient, url: str, accept: str, limit: int) -> Document:
    body = bytearray()
    with client.open(url, headers={"Accept": accept}) as stream:
        for chunk in stream.chunks:
            body += chunk
            if len(body) > limit:
                raise UrlFailure(url, Kind.TOO_LARGE, f"a document of more than {limit} bytes")
        if stream.total is not None and len(body) < stream.total:
            raise UrlFailure(url, Kind.TRUNCATED, f"ended after {len(body)} of {stream.total} bytes")
        return Document(stream.url, stream.content_type, bytes(body))


def _read_head(client: HttpClient, url: str, size: int) -> bytes:
    head = bytearray()
    with client.open(url) as stream:
        for chunk in stream.chunks:
            head += chunk
            if len(head) >= size:
                break
    return bytes(head)
