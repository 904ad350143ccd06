"""One HTTP exchange: a request, the redirects that a policy allows, and an answer that is read as it arrives.

`requests` supplies proxies, certificates and netrc. Its redirects, content decoding and blocking reads are switched
off: a RedirectPolicy judges each redirect, and bodies are the bytes that the server sent. Every failure is a
UrlFailure.
"""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from mmojo_forge.net.cancellation import HttpCancellation
from mmojo_forge.net.failure import FailureKind, UrlFailure, innermost_cause
from mmojo_forge.net.settings import HttpSettings, Pace
from mmojo_forge.net.url import RedirectPolicy, redacted_text

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:[0-9]{1,18}|\*)")
_NUMBER = re.compile(r"[0-9]{1,18}")
# Connection pools kept. With too few, urllib3 may drop one host's pool while another thread is about to use it.
_HOSTS = 64
# The longest rest of a body that is read so that the connection can be used again.
_DRAINED = 64 << 10
_BROKEN = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


class HttpClient:
    """Makes exchanges. Safe to use from several threads. It reuses connections, and keeps no cookies or other state."""

    def __init__(
        self,
        settings: HttpSettings | None = None,
        redirects: RedirectPolicy | None = None,
        cancellation: HttpCancellation | None = None,
    ) -> None:
        self.settings = settings or HttpSettings()
        self.cancellation = cancellation or HttpCancellation()
        self._redirects = redirects or RedirectPolicy()
        self._session = _Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _WatchedAdapter(self.settings.connections, self.cancellation)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def with_certificates(self, ca_bundle: str) -> HttpClient:
        """A client that trusts the certificates in a file instead of the machine's. It shares the cancellation."""
        return HttpClient(replace(self.settings, ca_bundle=ca_bundle), self._redirects, self.cancellation)

    def close(self) -> None:
        """Cut all connections, including those with a blocked reader. Later requests are refused."""
        self.cancellation.cancel()
        self._session.close()

    @contextmanager
    def exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> Iterator[Answer]:
        """The answer at the end of the redirects, whatever its status; raises UrlFailure."""
        asked = {"Accept-Encoding": "identity", "User-Agent": "mmojo-forge", **(headers or {})}
        current = url
        for _ in range(self.settings.redirects + 1):
            response = self._send(method, url, current, asked, content)
            try:
                if response.status_code >= 300:
                    # Nobody reads the body of a redirect or an error.
                    _drain(response)
                target = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or not target:
                    yield Answer(self, url, response)
                    _drain(response)
                    return
                current = self._followed(method, url, current, target)
            finally:
                response.close()
        raise UrlFailure(url, FailureKind.REDIRECTS, f"more than {self.settings.redirects} redirects")

    def _send(
        self, method: str, url: str, current: str, headers: Mapping[str, str], content: bytes | None
    ) -> requests.Response:
        self.cancellation.check(url)
        token = self._redirects.token(current)
        try:
            return self._session.request(
                method,
                current,
                headers=headers,
                data=content,
                auth=_Bearer(token) if token else None,
                timeout=(self.settings.connect_seconds, self.settings.stall_seconds),
                stream=True,
                allow_redirects=False,
                verify=self.settings.ca_bundle or None,
            )
        except requests.exceptions.ConnectTimeout as error:
            cause = f"no connection within {self.settings.connect_seconds:g} s"
            raise self.failure(url, FailureKind.CONNECT_TIMEOUT, cause) from error
        except (requests.exceptions.ReadTimeout, TimeoutError) as error:
            cause = f"no answer within {self.settings.stall_seconds:g} s"
            raise self.failure(url, FailureKind.STALLED, cause) from error
        except ValueError as error:
            raise self.failure(url, FailureKind.REFUSED, "not a usable URL") from error
        except _BROKEN as error:
            raise self.failure(url, FailureKind.UNREACHABLE, innermost_cause(error)) from error

    def _followed(self, method: str, url: str, current: str, target: str) -> str:
        try:
            following = urljoin(current, target)
        except ValueError as error:
            raise UrlFailure(url, FailureKind.REDIRECTS, "redirected to a malformed URL") from error
        if refusal := self._redirects.refusal(method, current, following):
            raise UrlFailure(url, FailureKind.INSECURE, refusal)
        return following

    def failure(self, url: str, kind: FailureKind, cause: str) -> UrlFailure:
        """The UrlFailure to raise: `cancelled` after a cancellation, since a cut connection looks like any failure."""
        if self.cancellation.cancelled:
            return UrlFailure(url, FailureKind.CANCELLED, "cancelled")
        return UrlFailure(url, kind, cause)


class Answer:
    """An HTTP answer whose body is read as it arrives."""

    def __init__(self, client: HttpClient, url: str, response: requests.Response) -> None:
        self.url: str = response.url
        self.status = response.status_code
        self.headers = response.headers
        self._client = client
        self._asked = url
        self._response = response
        self._pace = Pace(client.settings)

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, if the server says so."""
        text = self.headers.get("Content-Length", "")
        return int(text) if _NUMBER.fullmatch(text) else None

    @property
    def first_byte(self) -> int | None:
        """The offset in the file at which the body begins, if the server says so (RFC 9110, section 14.4)."""
        if self.status != 206:
            return 0
        found = _CONTENT_RANGE.fullmatch(self.headers.get("Content-Range", ""))
        return int(found[1]) if found and int(found[1]) <= int(found[2]) else None

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, as soon as some arrive; empty at the end. Raises UrlFailure."""
        client = self._client
        self._pace.start()
        try:
            part: bytes = self._response.raw.read1(count, decode_content=False)
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            cause = f"no data for {client.settings.stall_seconds:g} s"
            raise client.failure(self._asked, FailureKind.STALLED, cause) from error
        except (*_BROKEN, ValueError) as error:
            raise client.failure(self._asked, FailureKind.TRUNCATED, innermost_cause(error)) from error
        if not part:
            # Without a known length, a connection that `cancel` cut looks like the end of the answer.
            client.cancellation.check(self._asked)
        if slow := self._pace.stop(len(part)):
            raise client.failure(self._asked, FailureKind.SLOW, slow)
        return part

    def check(self) -> None:
        """Raise UrlFailure unless the status is 200 or 206."""
        if self.status in {200, 206}:
            return
        cause = f"HTTP {self.status} {redacted_text(self._response.reason or '')}".strip()
        if self.status in {404, 410}:
            raise UrlFailure(self._asked, FailureKind.GONE, cause)
        if self.status in {408, 425, 429} or self.status >= 500:
            raise UrlFailure(self._asked, FailureKind.SERVER, cause, retry_after=self._retry_after())
        raise UrlFailure(self._asked, FailureKind.REFUSED, cause)

    def _retry_after(self) -> float | None:
        """Seconds to wait before the next try (RFC 9110, section 10.2.3). The header has a number or a date."""
        text = self.headers.get("Retry-After", "").strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
            return max(0.0, (moment - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None. Even with `allow_redirects=False`, requests would read the whole body of a redirect, however long."""
        return None


class _Bearer(requests.auth.AuthBase):
    """The token as a header (RFC 6750). It is passed as `auth`, because netrc would replace a plain header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _WatchedAdapter(HTTPAdapter):
    """An adapter whose connections, including those to proxies, are watched by a cancellation."""

    def __init__(self, connections: int, cancellation: HttpCancellation) -> None:
        self._cancellation = cancellation
        super().__init__(pool_connections=_HOSTS, pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """Make pools whose connections are watched."""
        super().init_poolmanager(*arguments, **more)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        """The manager of a proxy's pools, whose connections are watched too."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **more)
        if not known:
            self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {name: _watched(pool, self._cancellation) for name, pool in pools.items()}


def _watched(pool: type[HTTPConnectionPool], cancellation: HttpCancellation) -> type[HTTPConnectionPool]:
    """A subclass of a pool class (plain, TLS or SOCKS) whose connections are watched."""
    plain: Any = pool.ConnectionCls

    def connect(self: Any) -> None:
        plain.connect(self)
        cancellation.watch(self.sock)

    connection = type(plain.__name__, (plain,), {"connect": connect})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _drain(response: requests.Response) -> None:
    """Read the rest of the answer if it is known to be short, so that the connection can be used again.

    This makes one read only, so that a slow server cannot hold the client up. If that is not enough, the connection is
    closed.
    """
    left = response.raw.length_remaining
    if left is not None and left <= _DRAINED:
        with contextlib.suppress(*_BROKEN, ValueError):
            response.raw.read1(_DRAINED, decode_content=False)
