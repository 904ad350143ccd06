"""A transport over HTTP. Any file server can be read from; a server that accepts PUT can also be written to.

`client.py` makes the requests. Each object is at its path below the URL. Folder listings have the format of nginx
with `autoindex_format json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.transport.client import WebClient
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, check_path, read_body
from mmojo_forge.net.settings import HttpSettings

_MAX_LISTING = 64 << 20


class WebTransport:
    """The files below a URL. Raises CacheError (`cache-url`) for an unusable URL."""

    def __init__(self, url: str, settings: HttpSettings | None = None) -> None:
        self._client = WebClient(url, settings)

    @property
    def place(self) -> str:
        """The URL, without user and password."""
        return self._client.place

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object or a part of it."""
        with self._client.get(check_path(path), span) as body:
            yield body

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """PUT the object."""
        return self._client.put(check_path(path), content, if_absent=if_absent)

    def size(self, path: str) -> int | None:
        """The object's size, from a HEAD request."""
        return self._client.size(check_path(path))

    def entries(self, folder: str) -> list[Listed]:
        """The entries of the folder; raises CacheError (`cache-no-listing`) if the server does not list in JSON."""
        path = f"{check_path(folder)}/"
        try:
            with self._client.get(path, accept="application/json") as body:
                return [_listed(row) for row in json.loads(read_body(body, self.place, path, _MAX_LISTING))]
        except CacheError as error:
            if error.reason == "cache-missing":
                return []
            # nginx without `autoindex` answers 403 for a folder.
            if error.reason == "cache-refused":
                raise self._no_listing(path) from error
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._no_listing(path) from error

    def delete(self, path: str) -> None:
        """DELETE the object."""
        self._client.delete(check_path(path))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _no_listing(self, path: str) -> CacheError:
        message = f"list {path} in {self.place}: the server does not list folders in JSON"
        return CacheError(message, reason="cache-no-listing", fault=CacheFault.REFUSING)


def _listed(row: dict[str, str | int]) -> Listed:
    modified = parsedate_to_datetime(str(row["mtime"])) if row.get("mtime") else datetime.fromtimestamp(0, UTC)
    is_folder = row["type"] == "directory"
    return Listed(str(row["name"]), int(row.get("size", 0)), modified.timestamp(), is_folder=is_folder)
