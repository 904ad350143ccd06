"""URLs as they may be shown, and what we ask of them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

_IN_TEXT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]*@")
_LOCAL_HOSTS = frozenset({"localhost", "::1"})


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
    return host in _LOCAL_HOSTS or host.startswith("127.")


def with_slash(url: str) -> str:
    """The URL ending in exactly one slash: a base that relative paths are appended to."""
    return url.rstrip("/") + "/"
