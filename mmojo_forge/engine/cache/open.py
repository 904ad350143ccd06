"""Opening the caches that the settings name: where they are, with which token, and how to read from there."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.read.transfer import Options
from mmojo_forge.cache.transport.open_transport import open_transport
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.engine.cache.settings import CacheSettingsError
from mmojo_forge.engine.cache.substituter import NamedCache
from mmojo_forge.engine.config import CacheTable
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.net.settings import HttpSettings


@dataclass(slots=True)
class _Place:
    """A cache's transport, opened when it is first needed, and closed to let whoever waits for it fail."""

    table: CacheTable
    environment: Mapping[str, str]
    _transport: Transport | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Transport:
        with self._lock:
            if self._transport is None:
                self._transport = open_place(self.table, self.environment)
            return self._transport

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()


def open_place(table: CacheTable, environment: Mapping[str, str]) -> Transport:
    """Where the cache's files are; raises CacheError (`cache-url`), CacheSettingsError (`token-unreadable`)."""
    settings = HttpSettings(
        token=_token(table, environment),
        plain_token=table.plain_token,
        ca_bundle=table.ca_bundle,
        connections=table.connections,
        redirect_hosts=table.redirect_hosts,
    )
    return open_transport(table.url, settings, environment)


def named_cache(
    name: str, table: CacheTable, trusted: Sequence[PublicKey], environment: Mapping[str, str]
) -> NamedCache:
    """The cache, read with the trusted keys. Reading a folder is so cheap that nothing is kept to resume by."""
    place = _Place(table, environment)
    far = not _is_folder(table.url)
    options = Options(connections=table.connections) if far else Options(connections=2, resume=False)
    return NamedCache(name, lambda: CacheReader(place.open(), trusted, options), seeding=far, cancel=place.close)


def _is_folder(url: str) -> bool:
    scheme, colon, _ = url.partition(":")
    return not colon or "/" in scheme or scheme == "file"


def _token(table: CacheTable, environment: Mapping[str, str]) -> str:
    if table.token_variable:
        return environment.get(table.token_variable, "").strip()
    if not table.token_file:
        return ""
    path = Path(table.token_file)
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise CacheSettingsError(
            f"read the token for {table.url}: {path} cannot be read", detail=str(error), reason="token-unreadable"
        ) from error
