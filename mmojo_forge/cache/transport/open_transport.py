"""Opens the transport for the URL or path of a cache: a folder, a web server, a Bazel cache or a bucket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.extras import ExtraError, require_extra
from mmojo_forge.net.settings import HttpSettings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WORKS = """A cache is a folder: /path, ./path or file:///path
a web server: https://host/path or http://host/path
a Bazel cache: bazel+https://host/path or bazel+http://host/path
a bucket: s3://bucket/path, gs://bucket/path or az://container/path"""


def open_transport(
    url: str,
    settings: HttpSettings | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    base: Path | None = None,
) -> Transport:
    """The transport for a URL or path; raises CacheError (`cache-url`) if it is neither.

    It sends no request yet. A relative path starts from `base`, or else from the current folder. `environment` has the
    credentials for buckets, in the variables of the stores' own tools.
    """
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    if not url or "\0" in url:
        raise _unusable(url)
    if not scheme:
        return _folder(url, environment, base)
    if scheme == "file":
        return _folder(_path_of(url), environment, base)
    if scheme in {"http", "https"}:
        return _web(url, settings)
    if scheme in {"bazel+http", "bazel+https"}:
        return _bazel(url, settings)
    if scheme in {"s3", "gs", "az"}:
        return _bucket(url, settings, environment)
    raise _unusable(url)


def _folder(path: str, environment: Mapping[str, str], base: Path | None) -> Transport:
    if path == "~" or path.startswith("~/"):
        # The path may come from a configuration file, where no shell expands it.
        path = f"{environment.get('HOME') or '~'}{path[1:]}"
    return FolderTransport(Path(path) if base is None else base / path)


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path or parts.query or parts.fragment:
        raise _unusable(url)
    return unquote(parts.path)


def _web(url: str, settings: HttpSettings | None) -> Transport:
    # Importing requests takes a third of the time of a run that needs no server.
    from mmojo_forge.cache.transport.web import WebTransport

    return WebTransport(url, settings)


def _bazel(url: str, settings: HttpSettings | None) -> Transport:
    from mmojo_forge.cache.transport.bazel import BazelTransport

    return BazelTransport(url, settings)


def _bucket(url: str, settings: HttpSettings | None, environment: Mapping[str, str]) -> Transport:
    try:
        require_extra("s3")
    except ExtraError as error:
        raise CacheError(
            f"use cache {url.partition('?')[0]}: {error.message}",
            detail=error.detail,
            reason="cache-url",
            fault=CacheFault.REFUSING,
        ) from error
    # This module imports obstore, which is optional and large.
    from mmojo_forge.cache.transport.bucket import BucketTransport

    return BucketTransport(url, settings, environment)


def _unusable(url: str) -> CacheError:
    shown = url.partition("?")[0][:200]
    if "@" in shown:
        # The part before the "@" may be a password.
        shown = f"…@{shown.rpartition('@')[2]}"
    return CacheError(
        f"use cache {shown!r}: not a kind of cache that forge knows",
        detail=_WORKS,
        reason="cache-url",
        fault=CacheFault.REFUSING,
    )
