"""`forge cache serve`: makes a server for the cache in a folder from the user's options."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from mmojo_forge.cache.server.limits import ServerLimits
from mmojo_forge.cache.server.metrics import Exchange, ServerReporter
from mmojo_forge.cache.server.tokens import Access, Tokens
from mmojo_forge.extras import require_extra

if TYPE_CHECKING:
    from mmojo_forge.cache.server.server import CacheServer

__all__ = ["Exchange", "ServeOptions", "Server", "ServerReporter", "make_server"]


class Server(Protocol):
    """An async context manager that serves at `url` until it is left."""

    @property
    def url(self) -> str:
        """The URL of the running server."""

    async def __aenter__(self) -> Self:
        """Start listening; raises ServeError."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for running requests, then stop."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `forge cache serve`. Paths are absolute. `plain` allows other machines to connect without TLS."""

    listen: str
    token_file: Path | None = None
    read_token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    plain: bool = False
    max_size: int | None = None
    connections: int = 1024


def make_server(
    folder: Path, options: ServeOptions, reporter: ServerReporter, warn: Callable[[str], None]
) -> CacheServer:
    """The server; it does not listen yet. `warn` is called if the system allows fewer connections than requested.

    Raises ServeError, and ExtraError if aiohttp is missing.
    """
    require_extra("serve")
    from mmojo_forge.cache.server.server import Address, CacheServer, ServerSettings, TlsFiles

    settings = ServerSettings(
        Address.parse(options.listen),
        Access(
            Tokens.read(options.token_file) if options.token_file else None,
            Tokens.read(options.read_token_file) if options.read_token_file else None,
        ),
        TlsFiles(options.tls_cert, options.tls_key, options.tls_client_ca)
        if options.tls_cert and options.tls_key
        else None,
        options.plain,
        options.max_size,
        _raise_descriptors(replace(ServerLimits(), connections=options.connections), warn),
    )
    return CacheServer(folder, settings, reporter)


def _raise_descriptors(limits: ServerLimits, warn: Callable[[str], None]) -> ServerLimits:
    """Raise the process's limit of open files to what `limits` needs. Lowers the connections if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = limits.descriptors
    if soft == unlimited or soft >= needed:
        return limits
    allowed = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    # A connection needs up to two descriptors: its socket and the file that it transfers.
    fewer = limits.connections - (needed - allowed + 1) // 2
    if fewer < limits.connections:
        warn(f"limited to {max(1, fewer)} connections, because the system allows {allowed} open files")
    return replace(limits, connections=max(1, fewer))
