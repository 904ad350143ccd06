"""A wait for an answer over HTTP ends when the transport is closed by another thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from mmojo_forge.cache.failure import CacheError
from mmojo_forge.cache.transport.protocol import read_whole
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.net.settings import HttpSettings

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", HEADERS[:20], HEADERS, HEADERS + b"beginning"], ids=len)
@pytest.mark.parametrize(
    "ask",
    [lambda transport: transport.size("a/b"), lambda transport: read_whole(transport, "a/b", 5000)],
    ids=["size", "read"],
)
def test_closing_wakes_whoever_waits(sent: bytes, ask: Callable[[WebTransport], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = WebTransport(
            f"http://127.0.0.1:{server.getsockname()[1]}", HttpSettings(connect_seconds=60, stall_seconds=60)
        )
        failures: list[CacheError] = []

        def wait() -> None:
            try:
                ask(transport)
            except CacheError as error:
                failures.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        client, _ = server.accept()
        with client:
            client.recv(10_000)
            client.sendall(sent)
            waiting.join(0.2)
            transport.close()
            waiting.join(30)
        assert not waiting.is_alive()
        if failures:
            assert failures[0].reason in {"cache-unreachable", "cache-truncated", "cache-timeout"}
        with pytest.raises(CacheError):
            ask(transport)
