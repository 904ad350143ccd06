"""Files behind HTTP, as all caches there need them: one answer at a time, watched, and not sent elsewhere.

GET, for parts with a Range (RFC 9110, section 14), HEAD, PUT with `If-None-Match: *` (section 13.1.2), DELETE, with a
bearer token (RFC 6750). The machinery is `requests`, as in `fetch/http.py`, which knows proxies, certificates and
netrc; redirects are ours to judge.

Connections that can be cut while somebody waits for an answer on them: what Ctrl-C needs to be quick.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from mmojo_forge.cache.failure import CacheError, Fault, lying, missing
from mmojo_forge.cache.transport.protocol import Body, Span, skip
from mmojo_forge.cache.transport.settings import Clock, Pace, WebSettings


class WakeableAdapter(HTTPAdapter):
    """Knows every connection that it opened, idle or not."""

    def __init__(self, *, connections: int) -> None:
        self._opened: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        super().__init__(pool_connections=4, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """Let the pools make connections that are noted here."""
        super().init_poolmanager(*arguments, **more)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                opened.add(self)
                super().connect()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                opened.add(self)
                super().connect()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def wake(self) -> None:
        """Cut all connections: whoever waits on one gets an error at once."""
        for connection in list(self._opened):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)


_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:[0-9]{1,18}|\*)")
_DRAINED = 64 << 10
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, requests.exceptions.RequestException, OSError)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_BYTES = "application/octet-stream"


class WebClient:
    """What lies below a URL. Raises CacheError (`cache-url`) for one that cannot be used.

    `kind` stands before the URL in messages.
    """

    def __init__(
        self, url: str, settings: WebSettings | None = None, *, kind: str = "", clock: Clock = time.monotonic
    ) -> None:
        self._settings = settings or WebSettings()
        self._clock = clock
        self._url = url.rstrip("/")
        self._origin = _origin(url)
        parts = urlsplit(url)
        self._place = f"{kind}{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        if self._settings.token and not self._may_send_token():
            raise CacheError(
                f"use cache {self._place}: the token would travel without TLS",
                detail="Give the cache an https URL.",
                reason="cache-url",
                fault=Fault.REFUSING,
            )
        self._session = _Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._adapter = WakeableAdapter(connections=self._settings.connections)
        self._closed = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)

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
        with self._exchange("GET", path, headers) as response:
            if response.status_code == 416 and span is not None:
                yield _Nothing()
                return
            self._check(response, path, "read")
            body = _WebBody(self, path, response, Pace(self._settings, self._clock))
            if span is None:
                yield body
                return
            if response.status_code == 206:
                self._check_range(response, path, span)
            else:
                skip(body, self._place, path, span.start)
            yield _Limited(body, span.length)

    def put(self, path: str, content: bytes, *, if_absent: bool = False, content_type: str = _BYTES) -> bool:
        """PUT; False where something is there already, must not be replaced, and the server says so."""
        headers = {"Content-Type": content_type, **({"If-None-Match": "*"} if if_absent else {})}
        with self._exchange("PUT", path, headers, content) as response:
            if response.status_code == 412 and if_absent:
                return False
            self._check(response, path, "write")
            return True

    def size(self, path: str) -> int | None:
        """How long it is; 0 where the server does not say, None where there is nothing."""
        with self._exchange("HEAD", path, {}) as response:
            if response.status_code in {404, 410}:
                return None
            self._check(response, path, "look for")
            length = response.headers.get("Content-Length", "")
            return int(length) if re.fullmatch("[0-9]{1,18}", length) else 0

    def delete(self, path: str) -> None:
        """DELETE, if it is there."""
        with self._exchange("DELETE", path, {}) as response:
            if response.status_code not in {404, 410}:
                self._check(response, path, "remove")

    def close(self) -> None:
        """Cut the connections, also those that somebody waits on."""
        self._closed = True
        self._adapter.wake()
        self._session.close()

    @contextmanager
    def _exchange(
        self, method: str, path: str, headers: dict[str, str], content: bytes | None = None
    ) -> Iterator[requests.Response]:
        """One answer, its redirects followed as far as they may be."""
        url = f"{self._url}/{path}"
        asked = {"Accept-Encoding": "identity", "User-Agent": "mmojo-forge", **headers}
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(method, url, path, asked, content)
            try:
                target = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or not target:
                    yield response
                    _drain(response)
                    return
                url = self._followed(url, target, path, method)
                _drain(response)
            finally:
                response.close()
        raise lying(self._place, path, f"more than {_MAX_REDIRECTS} redirects", "cache-redirect")

    def _send(
        self, method: str, url: str, path: str, headers: dict[str, str], content: bytes | None
    ) -> requests.Response:
        if self._closed:
            raise self.failing(path, "it was closed", "cache-unreachable")
        settings = self._settings
        ours = _origin(url) == self._origin
        try:
            return self._session.request(
                method,
                url,
                headers=headers,
                data=content,
                auth=_Authorization(settings.token) if settings.token and ours else None,
                timeout=(settings.connect_seconds, settings.stall_seconds),
                stream=True,
                allow_redirects=False,
                verify=settings.ca_bundle or None,
            )
        except (requests.exceptions.Timeout, TimeoutError) as error:
            raise self.failing(path, "no answer in time", "cache-timeout") from error
        except ValueError as error:
            raise self.failing(path, "not a usable URL", "cache-url") from error
        except _BROKEN as error:
            raise self.failing(path, _cause(error), "cache-unreachable") from error

    def _followed(self, url: str, target: str, path: str, method: str) -> str:
        try:
            following = urljoin(url, target)
        except ValueError as error:
            raise lying(self._place, path, "redirected to what is no URL", "cache-redirect") from error
        origin = _origin(following)
        allowed = origin == self._origin or (
            origin[1] in self._settings.redirect_hosts and origin[0] == "https" and method in {"GET", "HEAD"}
        )
        if not allowed:
            raise lying(self._place, path, f"redirected to {origin[0]}://{origin[1]}", "cache-redirect")
        return following

    def _check(self, response: requests.Response, path: str, verb: str) -> None:
        status = response.status_code
        if 200 <= status < 300 and status != 206:
            return
        if status == 206 and "Content-Range" in response.headers:
            return
        if status in {404, 410}:
            raise missing(self._place, path)
        message = f"{verb} {path} in {self._place}: HTTP {status}"
        if status in {401, 403, 407}:
            raise CacheError(message, reason="cache-refused", fault=Fault.REFUSING)
        if status in {405, 501} and verb != "read":
            raise CacheError(message, reason="cache-read-only", fault=Fault.REFUSING)
        raise CacheError(message, reason="cache-server-error", fault=Fault.FAILING)

    def _check_range(self, response: requests.Response, path: str, span: Span) -> None:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != span.start:
            raise lying(self._place, path, "another range than was asked for", "cache-malformed")

    def _may_send_token(self) -> bool:
        return self._origin[0] == "https" or self._origin[1] in _LOOPBACK or self._settings.plain_token

    def failing(self, path: str, cause: str, reason: str) -> CacheError:
        """The error for a server that does not answer as it should."""
        return CacheError(f"reach {path} in {self._place}: {cause}", reason=reason, fault=Fault.FAILING)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: requests would read the whole body of each redirect, however long."""
        return None


class _Authorization(requests.auth.AuthBase):
    """The token as a header; given as `auth`, so that an entry in netrc does not replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _WebBody:
    """What arrives, as it arrives; gives up where that is too slow."""

    def __init__(self, client: WebClient, path: str, response: requests.Response, pace: Pace) -> None:
        self._client = client
        self._path = path
        self._response = response
        self._pace = pace

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        try:
            part: bytes = self._response.raw.read1(count, decode_content=False)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            raise self._client.failing(self._path, "the answer stalled", "cache-timeout") from error
        except _BROKEN as error:
            raise self._client.failing(self._path, _cause(error), "cache-truncated") from error
        if slow := self._pace.too_slow(len(part)):
            raise self._client.failing(self._path, slow, "cache-slow")
        return part


class _Limited:
    """The first bytes of an answer."""

    def __init__(self, body: Body, count: int) -> None:
        self._body = body
        self._left = count

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        part = self._body.read(min(count, self._left)) if self._left else b""
        self._left -= len(part)
        return part


class _Nothing:
    def read(self, count: int, /) -> bytes:
        """No bytes."""
        return b""


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        if parts.hostname:
            return parts.scheme, parts.hostname, port
    except (ValueError, KeyError):
        pass
    raise CacheError("use a cache: not an http or https URL", reason="cache-url", fault=Fault.REFUSING)


def _drain(response: requests.Response) -> None:
    """Let the connection be used again, if what is left of the answer is known and short."""
    raw = response.raw
    with contextlib.suppress(*_BROKEN, ValueError):
        if raw.length_remaining is not None and raw.length_remaining <= _DRAINED:
            raw.read(_DRAINED, decode_content=False)


def _cause(error: BaseException) -> str:
    """The innermost cause: the outer ones repeat the URL."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return (str(error) or type(error).__name__)[:200]
