"""The HTTP client of the web and Bazel transports; it turns answers into results and CacheErrors.

It sends GET (with Range for parts, RFC 9110, section 14), HEAD, PUT (with `If-None-Match: *`, section 13.1.2) and
DELETE, with a bearer token. `net` makes the exchange, and follows redirects only to hosts that the settings allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from mmojo_forge.cache.failure import CacheError, CacheFault, lying, missing
from mmojo_forge.cache.transport.protocol import Body, Span, skip
from mmojo_forge.net.client import Answer, HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.settings import HttpSettings
from mmojo_forge.net.url import OwnOrigin, origin_of, redacted

_BYTES = "application/octet-stream"
_REASONS: Mapping[FailureKind, str] = MappingProxyType(
    {
        FailureKind.CONNECT_TIMEOUT: "cache-timeout",
        FailureKind.STALLED: "cache-timeout",
        FailureKind.SLOW: "cache-slow",
        FailureKind.TRUNCATED: "cache-truncated",
        FailureKind.REFUSED: "cache-url",
    }
)


class WebClient:
    """The files below a URL. Raises CacheError (`cache-url`) for an unusable URL.

    `kind` is put before the URL in messages.
    """

    def __init__(self, url: str, settings: HttpSettings | None = None, *, kind: str = "") -> None:
        settings = settings or HttpSettings()
        if origin_of(url) is None:
            raise CacheError("use a cache: not an http or https URL", reason="cache-url", fault=CacheFault.REFUSING)
        self._url = url.rstrip("/")
        self._place = kind + redacted(url).rstrip("/")
        policy = OwnOrigin(url, settings.redirect_hosts, settings.token, plain_token=settings.plain_token)
        if settings.token and not policy.token(url):
            raise CacheError(
                f"use cache {self._place}: the token would be sent without TLS",
                detail="Use an https URL for the cache.",
                reason="cache-url",
                fault=CacheFault.REFUSING,
            )
        self._client = HttpClient(settings, policy)

    @property
    def place(self) -> str:
        """The URL, without user and password."""
        return self._place

    @contextmanager
    def get(self, path: str, span: Span | None = None, accept: str = "") -> Iterator[Body]:
        """The file or a part of it. If the server does not support ranges, the bytes before the part are skipped."""
        headers = {"Accept": accept} if accept else {}
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.start + span.length - 1}"
        with self._exchange("GET", path, headers) as answer:
            # 416: the file ends before the span begins.
            if answer.status == 416 and span is not None:
                yield _WebBody(self, path, answer, 0)
                return
            self._check(answer, path, "read")
            if answer.status == 206 and answer.first_byte != (span.start if span else 0):
                raise lying(self._place, path, "the server sent another range than requested", "cache-malformed")
            if answer.status != 206 and span is not None:
                skip(_WebBody(self, path, answer), self._place, path, span.start)
            yield _WebBody(self, path, answer, span.length if span else None)

    def put(self, path: str, content: bytes, *, if_absent: bool = False, content_type: str = _BYTES) -> bool:
        """PUT the file; False if `if_absent` is set and the server answers that the file exists."""
        headers = {"Content-Type": content_type, **({"If-None-Match": "*"} if if_absent else {})}
        with self._exchange("PUT", path, headers, content) as answer:
            if answer.status == 412 and if_absent:
                return False
            self._check(answer, path, "write")
            return True

    def size(self, path: str) -> int | None:
        """The file's size; 0 if the server does not say, None if the file does not exist."""
        with self._exchange("HEAD", path, {}) as answer:
            if answer.status in {404, 410}:
                return None
            self._check(answer, path, "look for")
            return answer.length or 0

    def delete(self, path: str) -> None:
        """DELETE the file if it exists."""
        with self._exchange("DELETE", path, {}) as answer:
            if answer.status not in {404, 410}:
                self._check(answer, path, "remove")

    def close(self) -> None:
        """Cut all connections, including those with a blocked reader."""
        self._client.close()

    @contextmanager
    def _exchange(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None = None
    ) -> Iterator[Answer]:
        try:
            with self._client.exchange(method, f"{self._url}/{path}", headers, content) as answer:
                yield answer
        except UrlFailure as failure:
            raise self.error(path, failure) from failure

    def _check(self, answer: Answer, path: str, verb: str) -> None:
        status = answer.status
        if 200 <= status < 300 and status != 206:
            return
        if status == 206 and "Content-Range" in answer.headers:
            return
        if status in {404, 410}:
            raise missing(self._place, path)
        message = f"{verb} {path} in {self._place}: HTTP {status}"
        if status in {401, 403, 407}:
            raise CacheError(message, reason="cache-refused", fault=CacheFault.REFUSING)
        if status in {405, 501} and verb != "read":
            raise CacheError(message, reason="cache-read-only", fault=CacheFault.REFUSING)
        raise CacheError(message, reason="cache-server-error", fault=CacheFault.FAILING)

    def error(self, path: str, failure: UrlFailure) -> CacheError:
        """The CacheError for a failed exchange."""
        if failure.kind in {FailureKind.INSECURE, FailureKind.REDIRECTS}:
            return lying(self._place, path, failure.cause, "cache-redirect")
        message = f"reach {path} in {self._place}: {failure.cause}"
        return CacheError(message, reason=_REASONS.get(failure.kind, "cache-unreachable"), fault=CacheFault.FAILING)


class _WebBody:
    """The body of an answer as it arrives, but at most `most` bytes."""

    def __init__(self, client: WebClient, path: str, answer: Answer, most: int | None = None) -> None:
        self._client = client
        self._path = path
        self._answer = answer
        self._left = most

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        count = count if self._left is None else min(count, self._left)
        try:
            part = self._answer.read(count) if count else b""
        except UrlFailure as failure:
            raise self._client.error(self._path, failure) from failure
        if self._left is not None:
            self._left -= len(part)
        return part
