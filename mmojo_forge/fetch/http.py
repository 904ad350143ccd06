"""One request: from a URL and an offset to a stream of bytes, with every redirect looked at by us.

`requests` follows redirects, decodes content and blocks for whole chunks if it is let; here it does none of that:
the bytes are those of the file, a redirect never leads from https to http, and what arrives is handed on at once.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3.exceptions

from mmojo_forge.fetch.cancellation import Cancellation
from mmojo_forge.fetch.failure import Kind, UrlFailure
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.fetch.url import path_of, redacted, redacted_text, scheme_of

CHUNK = 1 << 17
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NUMBER = re.compile(r"[0-9]{1,18}")
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


@dataclass(frozen=True, slots=True)
class Stream:
    """An open answer. `start` is the offset of its first byte; `total` the size of the whole file, if known."""

    url: str
    start: int
    total: int | None
    content_type: str
    chunks: Iterator[bytes]


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: even where it follows no redirects, requests would read the whole body of each, however long."""
        return None


class _Sessions:
    """Sessions that are not in use. Each has its connections and, what takes longer than a small download, has read
    the machine's certificates. Safe to use from several threads; a session is one thread's at a time."""

    def __init__(self) -> None:
        self._idle: list[_Session] = []

    @contextmanager
    def borrow(self) -> Iterator[_Session]:
        """A session without cookies; after an error it is not used again."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = _Session()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        session.cookies.clear()
        self._idle.append(session)


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Opens http, https and file URLs. `ca_bundle` replaces the machine's certificates where a client names one."""

    settings: FetchSettings
    cancellation: Cancellation = field(default_factory=Cancellation)
    ca_bundle: str = ""
    sessions: _Sessions = field(default_factory=_Sessions, repr=False, compare=False)

    @contextmanager
    def open(self, url: str, *, start: int = 0, headers: Mapping[str, str] | None = None) -> Iterator[Stream]:
        """The content from `start` on, or from 0 if the server's answer does not fit; raises UrlFailure."""
        self.cancellation.check()
        scheme = scheme_of(url)
        if scheme == "file":
            with _open_file(url, start) as stream:
                yield stream
        elif scheme in {"http", "https"}:
            with self._open_http(url, start, dict(headers or {})) as stream:
                yield stream
        else:
            raise UrlFailure(url, Kind.REFUSED, f"{scheme!r} is no scheme that can be fetched")

    @contextmanager
    def _open_http(self, url: str, start: int, headers: dict[str, str]) -> Iterator[Stream]:
        with self.sessions.borrow() as session:
            response = self._request(session, url, start, headers)
            if start and response.status_code == 200:
                start = 0
            elif start and not _continues(response, start):
                response.close()
                start = 0
                response = self._request(session, url, 0, headers)
            try:
                _check_status(url, response)
                with self.cancellation.watching(response.raw):
                    length = _content_length(response)
                    total = None if length is None else start + length
                    content_type = response.headers.get("Content-Type", "")
                    yield Stream(response.url, start, total, content_type, self._chunks(url, response))
            finally:
                response.close()

    def _request(self, session: requests.Session, url: str, start: int, headers: dict[str, str]) -> requests.Response:
        asked = {**headers, "Accept-Encoding": "identity", "User-Agent": "mmojo-forge"}
        if start:
            asked["Range"] = f"bytes={start}-"
        current = url
        for _ in range(self.settings.redirects + 1):
            response = self._get(session, url, current, asked)
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            following = _joined(url, current, target)
            check_redirect(url, current, following)
            current = following
        raise UrlFailure(url, Kind.REDIRECTS, f"more than {self.settings.redirects} redirects")

    def _get(self, session: requests.Session, url: str, current: str, headers: dict[str, str]) -> requests.Response:
        self.cancellation.check()
        timeout = (self.settings.connect_seconds, self.settings.read_seconds)
        try:
            return session.get(
                current,
                headers=headers,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
                verify=self.ca_bundle or None,
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UrlFailure(url, Kind.REFUSED, "not a usable URL") from error
        except requests.exceptions.ReadTimeout as error:
            raise UrlFailure(url, Kind.STALLED, f"no answer within {self.settings.read_seconds:g} s") from error
        except (requests.exceptions.RequestException, *_BROKEN) as error:
            self.cancellation.check()
            raise UrlFailure(url, Kind.UNREACHABLE, _cause(error)) from error
        except ValueError as error:
            raise UrlFailure(url, Kind.REFUSED, "not a usable URL") from error

    def _chunks(self, url: str, response: requests.Response) -> Iterator[bytes]:
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                yield chunk
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            self.cancellation.check()
            raise UrlFailure(url, Kind.STALLED, f"nothing for {self.settings.read_seconds:g} s") from error
        except _BROKEN as error:
            self.cancellation.check()
            raise UrlFailure(url, Kind.TRUNCATED, _cause(error)) from error
        self.cancellation.check()


@contextmanager
def _open_file(url: str, start: int) -> Iterator[Stream]:
    path = path_of(url)
    try:
        file = path.open("rb")
    except OSError as error:
        kind = Kind.GONE if isinstance(error, FileNotFoundError) else Kind.REFUSED
        raise UrlFailure(url, kind, error.strerror or "cannot be opened") from error
    with file:
        total = path.stat().st_size
        start = start if start <= total else 0
        file.seek(start)
        yield Stream(url, start, total, _content_type_of(path), iter(lambda: file.read(CHUNK), b""))


def _content_type_of(path: Path) -> str:
    return "text/html" if path.suffix == ".html" else ""


def _joined(url: str, current: str, target: str) -> str:
    try:
        return urljoin(current, target)
    except ValueError as error:
        raise UrlFailure(url, Kind.REDIRECTS, "redirected to what is no URL") from error


def check_redirect(url: str, current: str, following: str) -> None:
    """Raise UrlFailure where a redirect leads to less security than the request had."""
    scheme = scheme_of(following)
    if scheme_of(current) == "https" and scheme == "http":
        raise UrlFailure(url, Kind.INSECURE, f"redirected from https to {redacted(following)}")
    if scheme not in {"http", "https"}:
        raise UrlFailure(url, Kind.INSECURE, f"redirected to a {scheme} URL")


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status in {200, 206}:
        return
    cause = f"HTTP {status} {redacted_text(response.reason or '')}".strip()
    if status in {404, 410}:
        raise UrlFailure(url, Kind.GONE, cause)
    if status in {408, 425, 429} or status >= 500:
        raise UrlFailure(url, Kind.SERVER, cause, retry_after=_retry_after(response))
    raise UrlFailure(url, Kind.REFUSED, cause)


def _continues(response: requests.Response, start: int) -> bool:
    """Whether the answer to a Range begins at `start`; errors are looked at elsewhere."""
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return found is not None and int(found[1]) == start and int(found[2]) >= start
    # 416: what is here is at least as long as what the server has, so it cannot be the beginning of it.
    return response.status_code != 416


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if _NUMBER.fullmatch(text) else None


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _cause(error: BaseException) -> str:
    """The innermost cause in a few words: the outer ones repeat the URL and object addresses."""
    innermost = error
    while innermost.__cause__ or innermost.__context__:
        innermost = innermost.__cause__ or innermost.__context__ or innermost
    text = redacted_text(str(innermost)) or type(innermost).__name__
    return text[:300]
