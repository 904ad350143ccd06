"""The server as a whole: its address, its TLS files, its settings, and its start and stop.

Without TLS it listens on this machine only, unless the user allows other addresses with `plain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from mmojo_forge.cache.server.connection import Listener
from mmojo_forge.cache.server.failure import ServeError
from mmojo_forge.cache.server.folder import Incoming, ServedFolder, Threads
from mmojo_forge.cache.server.handler import Handler
from mmojo_forge.cache.server.limits import ServerLimits
from mmojo_forge.cache.server.metrics import Metrics, ServerReporter
from mmojo_forge.cache.server.receiving import Quota, UploadReceiver
from mmojo_forge.cache.server.sending import Sender
from mmojo_forge.cache.server.tokens import Access

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})")
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port. Port 0 stands for any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address written as `HOST:PORT` or `[IPv6]:PORT`; raises ServeError (`serve-listen`)."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > 65535:
            raise ServeError(
                f"listen on {text!r}: not HOST:PORT",
                detail="Use 127.0.0.1:8484, [::1]:8484, or 0.0.0.0:8484 for all networks. Port 0 picks a free port.",
                reason="serve-listen",
            )
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen(address: Address, *, guarded: bool) -> tuple[socket.socket, Address]:
    """A listening socket and its address; raises ServeError (`serve-plain`, `serve-listen`).

    Unless `guarded` (by TLS, or by the user's choice), only loopback addresses are allowed.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        if not guarded and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
            raise ServeError(
                f"listen on {address}: other machines could connect, and tokens and content would be sent without TLS",
                detail="Give --tls-cert and --tls-key, or --plain if a proxy or a private network protects the server.",
                reason="serve-plain",
            )
        listener = socket.create_server(place, family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ServeError(
            f"listen on {address}: {cause}",
            detail="Use an address of this machine and a free port. Port 0 picks a free port.",
            reason="serve-listen",
        ) from error
    listener.setblocking(False)
    return listener, Address(address.host, listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its key, and the CA of client certificates, if those are required."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A context for TLS 1.2 or later with these files; raises ServeError (`serve-tls`)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password argument, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            files = ", ".join(str(file) for file in (self.certificate, self.key, self.client_ca) if file)
            raise ServeError(
                f"use TLS with {files}: {error}",
                detail="Give PEM files: the certificate (with its chain), its key without a password, the clients' CA.",
                reason="serve-tls",
            ) from error
        return context


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of a server. `plain` allows addresses other than loopback without TLS.

    `most_bytes` is the maximum size of the cache.
    """

    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    access: Access = field(default_factory=Access)
    tls: TlsFiles | None = None
    plain: bool = False
    most_bytes: int | None = None
    limits: ServerLimits = field(default_factory=ServerLimits)


class CacheServer:
    """Serves a folder inside an `async with` block; raises ServeError if it cannot start."""

    def __init__(
        self, folder: Path, settings: ServerSettings | None = None, reporter: ServerReporter | None = None
    ) -> None:
        self._path = folder
        self._settings = settings or ServerSettings()
        self._reporter = reporter or ServerReporter()
        self._stack = contextlib.AsyncExitStack()
        self._address = self._settings.address

    @property
    def url(self) -> str:
        """The URL of the running server."""
        return f"{'https' if self._settings.tls else 'http'}://{self._address}"

    async def __aenter__(self) -> Self:
        """Listen, and start to accept connections."""
        async with contextlib.AsyncExitStack() as stack:
            settings = self._settings
            context = settings.tls.context() if settings.tls else None
            listener, self._address = listen(settings.address, guarded=settings.plain or context is not None)
            stack.callback(listener.close)
            metrics = Metrics(time.time())
            handler = await self._make_handler(stack, metrics)
            accepting = Listener(listener, context, handler, settings.limits, metrics)
            stack.push_async_callback(accepting.close)
            stack.push_async_callback(_stop, asyncio.create_task(accepting.run()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait a moment for running answers, abort the rest, and remove unfinished uploads."""
        await self._stack.aclose()

    async def _make_handler(self, stack: contextlib.AsyncExitStack, metrics: Metrics) -> Handler:
        settings = self._settings
        folder = ServedFolder(self._path, make=settings.access.writable)
        stack.callback(folder.close)
        threads = Threads(settings.limits.threads)
        stack.callback(threads.close)
        receiver = None
        if settings.access.writable:
            incoming = self._open_incoming(folder)
            stack.callback(incoming.close)
            used = await threads.run(folder.total) if settings.most_bytes is not None else 0
            quota = Quota(settings.most_bytes, used)
            receiver = UploadReceiver(folder, incoming, quota, threads, settings.limits, metrics)
        sender = Sender(folder, threads, settings.limits, metrics)
        return Handler(folder, sender, receiver, settings.access, threads, metrics, self._reporter)

    def _open_incoming(self, folder: ServedFolder) -> Incoming:
        try:
            return Incoming(folder.descriptor)
        except OSError as error:
            raise ServeError(
                f"write to {self._path}: {error.strerror or error}",
                detail="Name a folder that forge can write to, or omit --token-file to serve it read-only.",
                reason="serve-folder",
            ) from error


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
