"""Accepts connections, limits their number and the time for a request, and answers malformed requests."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

from mmojo_forge.cache.server.handler import Handler
from mmojo_forge.cache.server.limits import ServerLimits
from mmojo_forge.cache.server.metrics import Metrics
from mmojo_forge.cache.server.sending import COMMON_HEADERS

_ENDING_SECONDS = 0.5
"""Seconds that aborted exchanges have to clean up."""


class Connection(web.RequestHandler):
    """One connection. aiohttp's class reads and parses its requests one after the other.

    This class adds a deadline for the first request (aiohttp's own applies to later ones), a short answer to malformed
    requests, and the flag `crowded` for connections that get 503.
    """

    def __init__(self, server: web.Server, limits: ServerLimits, metrics: Metrics, *, crowded: bool) -> None:
        self._ours = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=self._ours,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=limits.linger_seconds,
            auto_decompress=False,
        )
        self._metrics = metrics
        self._header_seconds = limits.header_seconds
        self._impatience: asyncio.TimerHandle | None = None
        self.crowded = crowded
        self.gone = self._ours.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self._impatience = self._ours.call_later(self._header_seconds, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Mark the connection as closed."""
        self.begun()
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def begun(self) -> None:
        """Cancel the deadline, because a request has arrived."""
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed. It is the client's fault or an attack, so it is not logged."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        self.begun()
        self._metrics.answered("", str(status))
        document = {"error": {"reason": "bad-request", "message": "malformed HTTP request"}}
        body = json.dumps(document).encode() + b"\n"
        response = web.Response(status=status, body=body, content_type="application/json", headers=COMMON_HEADERS)
        response.force_close()
        return response


class Listener:
    """Accepts connections, and counts them from the start, so that TLS handshakes count too."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        handler: Handler,
        limits: ServerLimits,
        metrics: Metrics,
    ) -> None:
        self._listener = listener
        self._context = context
        self._limits = limits
        self._metrics = metrics
        self._handler = handler
        self._server = web.Server(self._handle)
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[object]] = set()

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        most = self._limits.connections + self._limits.spare_connections
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError:
                # No descriptor is left, or the client is gone. Try again in a moment.
                await asyncio.sleep(0.1)
                continue
            if self._metrics.connections >= most:
                self._metrics.turned_away += 1
                accepted.close()
                continue
            task = loop.create_task(self._serve(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait a moment for running answers, then abort the rest."""
        self._listener.close()
        await self._server.shutdown(self._limits.stop_seconds)
        if self._busy:
            await asyncio.wait(self._busy, timeout=_ENDING_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, accepted: socket.socket) -> None:
        self._metrics.connections += 1
        try:
            crowded = self._metrics.connections > self._limits.connections
            self._metrics.turned_away += crowded
            connection = Connection(self._server, self._limits, self._metrics, crowded=crowded)
            await self._connect(accepted, lambda: connection)
            await connection.gone
        except OSError:
            accepted.close()  # The TLS handshake failed.
        finally:
            self._metrics.connections -= 1

    async def _connect(self, accepted: socket.socket, make: Callable[[], Connection]) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            make,
            accepted,
            ssl=self._context,
            ssl_handshake_timeout=self._limits.header_seconds if self._context else None,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begun()
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            return await self._handler.answer(request, crowded=connection.crowded)
        finally:
            self._busy.discard(task)
