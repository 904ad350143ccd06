"""Connections: how many there are, how long a request may take to arrive, and what is no request at all."""

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
"""For how long cut exchanges may put their things away."""


class Connection(web.RequestHandler):
    """One connection: aiohttp's, which reads and parses requests one after the other.

    What is ours: a first request has to arrive in time (later ones do by the time for idle connections), the answer
    to what is no request is brief, and `crowded` connections are told to come again.
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
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._impatience = self._ours.call_later(self._header_seconds, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever waits for the end."""
        self.begun()
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def begun(self) -> None:
        """A request has arrived."""
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what cannot be parsed, without a word in the log: it is a client's fault, or an attack."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        self.begun()
        self._metrics.answered("", str(status))
        document = {"error": {"reason": "bad-request", "message": "this is no HTTP request"}}
        body = json.dumps(document).encode() + b"\n"
        response = web.Response(status=status, body=body, content_type="application/json", headers=COMMON_HEADERS)
        response.force_close()
        return response


class Listener:
    """Accepts connections, and keeps count of them from the first byte: while TLS is still being agreed on, too."""

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
                # No descriptor is left, or the client has gone: others may have better luck in a while.
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
        """Let answers end for a while, then cut them."""
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
            accepted.close()  # TLS was not agreed on
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
