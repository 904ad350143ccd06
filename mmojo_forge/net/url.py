"""URLs: how they may be shown, which server they name, and where a redirect may lead from them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]*@")
_WEB = frozenset({"http", "https"})


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment: where tokens stand."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return redacted_text(url)


def redacted_text(text: str) -> str:
    """Text of a tool, with the credentials of every URL in it removed."""
    return _IN_TEXT.sub(r"\g<scheme>", text)


def scheme_of(url: str) -> str:
    """The lower-case scheme, empty where there is none."""
    return url.partition(":")[0].lower() if ":" in url else ""


def path_of(url: str) -> Path:
    """The path of a file: URL."""
    return Path(unquote(urlsplit(url).path))


def is_loopback(url: str) -> bool:
    """Whether the URL names this very machine."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def with_slash(url: str) -> str:
    """The URL ending in exactly one slash: a base that relative paths are appended to."""
    return url.rstrip("/") + "/"


class Origin(NamedTuple):
    """What has to be the same for two URLs to be of one server (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin | None:
    """The server that an http or https URL names, or None where it names none."""
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.scheme in _WEB:
            return Origin(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError:
        pass
    return None


class RedirectPolicy:
    """Where a client goes when it is sent elsewhere, and who gets its token.

    This one is for content whose hash is known: any server will do, and none gets a token.
    """

    def refusal(self, _method: str, current: str, following: str) -> str:
        """Why a redirect is not followed: it leads from https to http, or to another scheme. Nothing where it is."""
        scheme = scheme_of(following)
        if scheme_of(current) == "https" and scheme == "http":
            return f"redirected from https to {redacted(following)}"
        return "" if scheme in _WEB else f"redirected to a {scheme} URL"

    def token(self, _url: str) -> str:
        """What a request to this URL is authorised with, or nothing."""
        return ""


class OwnOrigin(RedirectPolicy):
    """For one server with a token: requests stay there, and may read from the hosts that were named."""

    def __init__(self, url: str, hosts: frozenset[str], token: str, *, plain_token: bool = False) -> None:
        self._origin = origin_of(url)
        self._hosts = hosts
        self._token = token
        self._plain_token = plain_token

    def refusal(self, method: str, _current: str, following: str) -> str:
        """Why a redirect is not followed: other hosts are only read from, over https, and where they were named."""
        origin = origin_of(following)
        if origin is None or origin == self._origin:
            return "" if origin else "redirected to what is no http or https URL"
        named = origin.host in self._hosts and origin.scheme == "https" and method in {"GET", "HEAD"}
        return "" if named else f"redirected to {origin.scheme}://{origin.host}"

    def token(self, url: str) -> str:
        """The token for the own server; without TLS only where that was allowed, or never leaves this machine."""
        if origin_of(url) != self._origin:
            return ""
        safe = scheme_of(url) == "https" or self._plain_token or is_loopback(url)
        return self._token if safe else ""
