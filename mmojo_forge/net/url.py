"""URLs: redaction for messages, the origin that a URL names, and the rules for redirects and tokens."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]*@")
_WEB = frozenset({"http", "https"})


def redacted(url: str) -> str:
    """The URL without the parts that may hold a secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return redacted_text(url)


def redacted_text(text: str) -> str:
    """The text without the credentials of any URL in it."""
    return _IN_TEXT.sub(r"\g<scheme>", text)


def scheme_of(url: str) -> str:
    """The scheme in lower case, or "" where there is none."""
    return url.partition(":")[0].lower() if ":" in url else ""


def path_of(url: str) -> Path:
    """The path of a file: URL."""
    return Path(unquote(urlsplit(url).path))


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def with_slash(url: str) -> str:
    """The URL with exactly one slash at its end, so that a relative path can be appended."""
    return url.rstrip("/") + "/"


class Origin(NamedTuple):
    """Scheme, host and port. Two URLs with the same origin belong to one server (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin | None:
    """The origin of an http or https URL, or None for any other text."""
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.scheme in _WEB:
            return Origin(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError:
        pass
    return None


class RedirectPolicy:
    """Decides which redirects a client follows, and which server gets its token.

    This policy is for content whose hash is known: it trusts any server, and sends no token.
    """

    def refusal(self, _method: str, current: str, following: str) -> str:
        """Why a redirect is refused, or "" if it is allowed. It must not lead from https to http or another scheme."""
        scheme = scheme_of(following)
        if scheme_of(current) == "https" and scheme == "http":
            return f"redirected from https to {redacted(following)}"
        return "" if scheme in _WEB else f"redirected to a {scheme} URL"

    def token(self, _url: str) -> str:
        """The token to send with a request to this URL, or "" for none."""
        return ""


class OwnOrigin(RedirectPolicy):
    """The policy for one server with a token: requests stay there, except for reads from the named hosts."""

    def __init__(self, url: str, hosts: frozenset[str], token: str, *, plain_token: bool = False) -> None:
        self._origin = origin_of(url)
        self._hosts = hosts
        self._token = token
        self._plain_token = plain_token

    def refusal(self, method: str, _current: str, following: str) -> str:
        """Why a redirect is refused, or "". Only named hosts are allowed besides the server, for reads over https."""
        origin = origin_of(following)
        if origin is None or origin == self._origin:
            return "" if origin else "redirected to a URL that is not http or https"
        named = origin.host in self._hosts and origin.scheme == "https" and method in {"GET", "HEAD"}
        return "" if named else f"redirected to {origin.scheme}://{origin.host}"

    def token(self, url: str) -> str:
        """The token if the URL is on the own server. Without TLS, only if the settings allow it or on this machine."""
        if origin_of(url) != self._origin:
            return ""
        safe = scheme_of(url) == "https" or self._plain_token or is_loopback(url)
        return self._token if safe else ""
