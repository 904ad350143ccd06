"""What tests of `forge cache serve` share: a server in a thread or as a process, and requests as bytes."""

from __future__ import annotations

import asyncio
import http.client
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmojo_forge.cache.server.limits import ServerLimits
from mmojo_forge.cache.server.metrics import Exchange, ServerReporter
from mmojo_forge.cache.server.server import CacheServer, ServerSettings
from mmojo_forge.cache.server.tokens import Access, Tokens
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.net.settings import HttpSettings

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "writing-is-for-those-who-know-this"
READ_TOKEN = "reading-is-for-those-who-know-this"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ONLY_NEW = {"If-None-Match": "*"}
WRITABLE = ServerSettings(access=Access(Tokens([TOKEN])))
READABLE = ServerSettings()

# For a process to start on a machine that is busy with other tests; nothing is measured by it.
_START_SECONDS = 60


def limited(settings: ServerSettings, **limits: Any) -> ServerSettings:
    """The settings with other limits."""
    return replace(settings, limits=ServerLimits(**limits))


@dataclass
class Recorder(ServerReporter):
    """Keeps what it is told."""

    exchanges: list[Exchange] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def answered(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def failed(self, message: str) -> None:
        self.failures.append(message)


@dataclass
class Answer:
    """An answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Served:
    """A server that runs in a thread of this process."""

    url: str
    folder: Path
    recorder: Recorder

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """One request on a connection of its own; an iterator as body is sent in chunks."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def put(self, path: str, content: bytes) -> int:
        """Write with the token; the status."""
        return self.ask("PUT", f"/{path}", AUTHORIZED, content).status

    def put_new(self, path: str, content: bytes) -> int:
        """Write with the token, unless it is there; the status."""
        return self.ask("PUT", f"/{path}", {**AUTHORIZED, **ONLY_NEW}, content).status

    @contextmanager
    def connected(self, sent: bytes = b"") -> Iterator[socket.socket]:
        """A connection on which these bytes were sent."""
        with socket.create_connection(self.address, timeout=30) as connection:
            connection.sendall(sent)
            yield connection

    def raw(self, sent: bytes) -> bytes:
        """All that is answered to these bytes until the server closes the connection."""
        with self.connected(sent) as connection:
            return read_all(connection)

    def transport(self) -> WebTransport:
        return WebTransport(self.url, HttpSettings(token=TOKEN))


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for it; not for ever."""
    given_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < given_up
        time.sleep(0.01)


def put_head(path: str, length: int, *more: str) -> bytes:
    """The beginning of a PUT with the token."""
    lines = [f"PUT /{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def unfinished(folder: Path) -> list[Path]:
    """The files that are being written."""
    return [path for path in (folder / ".serving").rglob("*") if path.is_file()]


@contextmanager
def served(folder: Path, settings: ServerSettings = WRITABLE) -> Iterator[Served]:
    """A server in a thread, while the body runs."""
    recorder = Recorder()
    started: queue.Queue[str | BaseException] = queue.Queue()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stopped = asyncio.Event()
        async with CacheServer(folder, settings, recorder) as server:
            stop.append((asyncio.get_running_loop(), stopped))
            started.put(server.url)
            await stopped.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            started.put(error)
            raise

    thread = threading.Thread(target=run, name="cache-server")
    thread.start()
    try:
        url = started.get(timeout=_START_SECONDS)
        assert isinstance(url, str), url
        yield Served(url, folder, recorder)
    finally:
        for loop, stopped in stop:
            loop.call_soon_threadsafe(stopped.set)
        thread.join()


def server_command(*arguments: str | Path) -> list[str]:
    """`forge cache serve` with these arguments."""
    return [sys.executable, "-m", "mmojo_forge", "cache", "serve", *map(str, arguments)]


def environment(home: Path) -> dict[str, str]:
    """That of a process of the command line."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def server_process(folder: Path, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`forge cache serve` as a process, and the first line that it prints; ended when the body is done."""
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    with subprocess.Popen(
        server_command(folder, *listen, *arguments),
        cwd=REPOSITORY,
        env=environment(folder.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                raise AssertionError(process.communicate()[1])
            yield process, line
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def token_file(folder: Path, token: str = TOKEN) -> Path:
    """A file with the token, which only its owner can read."""
    file = folder / f"{token.partition('-')[0]}-tokens"
    file.touch(0o600)
    file.write_text(f"# who may\n{token}\n")
    return file
