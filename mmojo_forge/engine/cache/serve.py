"""`forge cache serve`: a server for the cache in a folder, put together from what the user asks for."""

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
    """A server that serves while it is entered, at `url`."""

    @property
    def url(self) -> str:
        """Where it can be reached."""

    async def __aenter__(self) -> Self:
        """Begin to listen; raises ServeError."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let requests that run end, then stop."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the server is asked to be. Paths are absolute; `plain` lets other machines reach it without TLS."""

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
    """The server, which does not listen yet; `warn` hears of fewer connections than asked for.

    Raises ServeError, and ExtraError where aiohttp is missing.
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
    """Let the process open as many files as the limits need; fewer connections where the system allows no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = limits.descriptors
    if soft == unlimited or soft >= needed:
        return limits
    allowed = needed if hard == unlimited else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    fewer = limits.connections - (needed - allowed + 1) // 2
    if fewer < limits.connections:
        warn(f"{max(1, fewer)} connections: the system allows {allowed} open files")
    return replace(limits, connections=max(1, fewer))
