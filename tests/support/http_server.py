"""A server on this machine that answers as a test wants, also badly: it truncates, stalls, drips and never ends."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

CONTENT = bytes(range(256)) * 4096
OTHER = b"another file altogether\n" * 40_000


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request, answered by the route of its path."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Range", "")))
        try:
            self.server.routes.get(path, self.server.otherwise)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


Route = Callable[[Exchange], None]


class Server(http.server.ThreadingHTTPServer):
    """Routes by path; `asked` lists (path, Range) of every request. `root` is served where there is no route."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.routes: dict[str, Route] = {}
        self.asked: list[tuple[str, str]] = []
        self.root: Path | None = None
        self.closing = threading.Event()

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def otherwise(self, exchange: Exchange) -> None:
        if self.root is not None:
            path = self.root / unquote(exchange.path).lstrip("/")
            if path.is_file():
                serve(path.read_bytes())(exchange)
                return
        status(404)(exchange)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def running_server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(name="server")
def server_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as server:
        yield server


def serve(content: bytes, *, ranges: bool = True, headers: dict[str, str] | None = None) -> Route:
    def route(exchange: Exchange) -> None:
        asked = exchange.headers.get("Range", "")
        more = headers or {}
        if ranges and asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                exchange.answer(416, {"Content-Length": "0"})
                return
            fields = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            body = content[start:]
            exchange.answer(206, {**fields, "Content-Length": str(len(body)), **more}, body)
        else:
            exchange.answer(200, {"Content-Length": str(len(content)), **more}, content)

    return route


def status(code: int, headers: dict[str, str] | None = None) -> Route:
    return lambda exchange: exchange.answer(code, {"Content-Length": "0", **(headers or {})})


def truncated(content: bytes, at: int) -> Route:
    def route(exchange: Exchange) -> None:
        exchange.answer(200, {"Content-Length": str(len(content))}, content[:at])
        exchange.close_connection = True

    return route


def endless(exchange: Exchange) -> None:
    exchange.answer(200, {"Connection": "close"})
    while not exchange.server.closing.is_set():
        exchange.wfile.write(bytes(1 << 16))


def stalled(content: bytes, at: int) -> Route:
    def route(exchange: Exchange) -> None:
        exchange.answer(200, {"Content-Length": str(len(content))}, content[:at])
        exchange.server.closing.wait(10)
        exchange.close_connection = True

    return route


def silent(exchange: Exchange) -> None:
    exchange.server.closing.wait(10)


def dripping(exchange: Exchange) -> None:
    exchange.answer(200, {"Content-Length": str(len(CONTENT))})
    while not exchange.server.closing.wait(0.05):
        exchange.wfile.write(b"x")


def in_turn(*routes: Route) -> Route:
    """Each route once, the last one for ever."""
    left = list(routes)

    def route(exchange: Exchange) -> None:
        current = left.pop(0) if len(left) > 1 else left[0]
        current(exchange)

    return route


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
