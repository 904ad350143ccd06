"""Files behind HTTP, as all caches there need them: what each answer says of the cache that gave it.

GET, for parts with a Range (RFC 9110, section 14), HEAD, PUT with `If-None-Match: *` (section 13.1.2), DELETE, with a
bearer token. `net` does the exchange, and never takes it to another server than the cache allows.
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
    """What lies below a URL. Raises CacheError (`cache-url`) for one that cannot be used.

    `kind` stands before the URL in messages.
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
                f"use cache {self._place}: the token would travel without TLS",
                detail="Give the cache an https URL.",
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
        """What lies there or a part of it; from a server that knows no ranges, what is before is read past."""
        headers = {"Accept": accept} if accept else {}
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.start + span.length - 1}"
        with self._exchange("GET", path, headers) as answer:
            if answer.status == 416 and span is not None:
                yield _WebBody(self, path, answer, 0)
                return
            self._check(answer, path, "read")
            if answer.status == 206 and answer.first_byte != (span.start if span else 0):
                raise lying(self._place, path, "another range than was asked for", "cache-malformed")
            if answer.status != 206 and span is not None:
                skip(_WebBody(self, path, answer), self._place, path, span.start)
            yield _WebBody(self, path, answer, span.length if span else None)

    def put(self, path: str, content: bytes, *, if_absent: bool = False, content_type: str = _BYTES) -> bool:
        """PUT; False where something is there already, must not be replaced, and the server says so."""
        headers = {"Content-Type": content_type, **({"If-None-Match": "*"} if if_absent else {})}
        with self._exchange("PUT", path, headers, content) as answer:
            if answer.status == 412 and if_absent:
                return False
            self._check(answer, path, "write")
            return True

    def size(self, path: str) -> int | None:
        """How long it is; 0 where the server does not say, None where there is nothing."""
        with self._exchange("HEAD", path, {}) as answer:
            if answer.status in {404, 410}:
                return None
            self._check(answer, path, "look for")
            return answer.length or 0

    def delete(self, path: str) -> None:
        """DELETE, if it is there."""
        with self._exchange("DELETE", path, {}) as answer:
            if answer.status not in {404, 410}:
                self._check(answer, path, "remove")

    def close(self) -> None:
        """Cut the connections, also those that somebody waits on."""
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
        """What an exchange that failed says of the cache."""
        if failure.kind in {FailureKind.INSECURE, FailureKind.REDIRECTS}:
            return lying(self._place, path, failure.cause, "cache-redirect")
        message = f"reach {path} in {self._place}: {failure.cause}"
        return CacheError(message, reason=_REASONS.get(failure.kind, "cache-unreachable"), fault=CacheFault.FAILING)


class _WebBody:
    """What arrives, as it arrives, but not more than `most`."""

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
