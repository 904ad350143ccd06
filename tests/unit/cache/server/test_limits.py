"""What the server of a cache bears: the slow, the large and the many, full disks and broken ones."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from mmojo_forge.cache.format import layout
from mmojo_forge.cache.server.folder import Incoming, ServedFolder
from mmojo_forge.cache.server.objects import MAX_BLOB, MAX_RESULT
from mmojo_forge.cache.server.sending import Version
from mmojo_forge.model.digest import TreeId, blake3_hex
from tests.support.cache_serving import (
    AUTHORIZED,
    WRITABLE,
    Served,
    eventually,
    files_below,
    limited,
    put_head,
    read_all,
    served,
)

CONTENT = random.Random(1).randbytes(300_000)
PACK = layout.pack_path(blake3_hex(CONTENT))
RESULT = f"ac/{'a' * 64}"
HUGE = 32 << 20


@pytest.fixture(name="server")
def running_server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "cache") as running:
        yield running


class TestTheLarge:
    @pytest.mark.parametrize(
        ("path", "most"),
        [
            (layout.INFO, layout.MAX_INFO),
            (layout.name_path("zig", TreeId("1" * 64)), 64),
            (layout.trace_path("1" * 64, "1" * 16), layout.MAX_TRACE),  # type: ignore[arg-type]
            (layout.tree_path(TreeId("1" * 64)), layout.MAX_COMPRESSED),
            (PACK, layout.MAX_PACK),
            (RESULT, MAX_RESULT),
            (f"cas/{'1' * 64}", MAX_BLOB),
        ],
    )
    def test_what_says_that_it_is_too_long_is_refused_at_once(self, server: Served, path: str, most: int) -> None:
        with server.connected(put_head(path, most + 1)) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("path", [layout.INFO, RESULT])
    def test_what_proves_to_be_too_long_is_refused(self, server: Served, path: str) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(200):
                yield bytes(64 << 10)

        answer = server.ask("PUT", f"/{path}", AUTHORIZED, endless())
        assert answer.status == 413
        assert files_below(server.folder) == set()

    def test_a_cache_may_have_so_much_and_no_more(self, tmp_path: Path) -> None:
        with served(tmp_path / "cache", replace(WRITABLE, most_bytes=500_000)) as server:
            assert server.put_new(PACK, CONTENT) == 201
            assert server.put(f"cas/{sha256(CONTENT).hexdigest()}", CONTENT) == 507
            assert server.put(RESULT, CONTENT[:150_000]) == 201
            assert server.put(RESULT, CONTENT[:50_001]) == 507
            assert server.ask("DELETE", f"/{PACK}", AUTHORIZED).status == 204
            assert server.put(RESULT, CONTENT[:50_000]) == 204
        with served(tmp_path / "cache", replace(WRITABLE, most_bytes=60_000)) as server:
            assert server.put(f"ac/{'b' * 64}", CONTENT[:11_000]) == 507
            assert server.put(f"ac/{'b' * 64}", CONTENT[:9_000]) == 201
        assert files_below(tmp_path / "cache") == {f"ac/aa/{'a' * 64}", f"ac/bb/{'b' * 64}"}


class TestTheSlow:
    def test_a_body_that_stalls_is_given_up(self, tmp_path: Path) -> None:
        with served(tmp_path, limited(WRITABLE, stall_seconds=0.2)) as server:
            assert server.raw(put_head(PACK, len(CONTENT)) + CONTENT[:1000]).startswith(b"HTTP/1.1 408 ")
            assert files_below(tmp_path) == set()

    def test_a_body_that_drips_is_given_up(self, tmp_path: Path) -> None:
        with (
            served(tmp_path, limited(WRITABLE, grace_seconds=0.2, least_rate=1e6)) as server,
            server.connected(put_head(PACK, len(CONTENT))) as connection,
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
        ):
            connection.settimeout(0.01)
            answer = b""
            while not answer:
                connection.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    answer = connection.recv(100)
            assert answer.startswith(b"HTTP/1.1 408 ")

    def test_a_request_that_does_not_arrive_is_given_up(self, tmp_path: Path) -> None:
        with served(tmp_path, limited(WRITABLE, header_seconds=0.2, idle_seconds=0.2)) as server:
            for sent in (b"", b"GET /hea"):
                assert server.raw(sent) == b""
            head = b"GET /health HTTP/1.1\r\nHost: x\r\n"
            answer = server.raw(head + b"\r\n" + head)  # the second is never finished
            assert answer.count(b"HTTP/1.1 200 ") == 1

    def test_an_answer_that_is_not_taken_is_cut(self, tmp_path: Path) -> None:
        content = bytes(HUGE)
        path = f"cas/{sha256(content).hexdigest()}"
        with served(tmp_path, limited(WRITABLE, grace_seconds=0.3, least_rate=1e9)) as server:
            (tmp_path / "cas" / path[4:6]).mkdir(parents=True)
            (tmp_path / "cas" / path[4:6] / path[4:]).write_bytes(content)
            with server.connected(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
                eventually(lambda: bool(server.recorder.exchanges))
                assert server.recorder.exchanges[0].status == 0
                with contextlib.suppress(ConnectionError):
                    assert len(read_all(connection)) < HUGE
            assert b'requests_total{method="GET",status="cut"} 1' in server.ask("GET", "/metrics").body

    def test_a_client_that_leaves_is_no_error(self, tmp_path: Path) -> None:
        content = bytes(HUGE)
        path = f"cas/{sha256(content).hexdigest()}"
        with served(tmp_path) as server:
            assert server.put(path, content) == 201
            with server.connected(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
                connection.recv(1000)
            eventually(lambda: len(server.recorder.exchanges) == 2)
            assert server.recorder.failures == []


class TestTheMany:
    def test_those_beyond_are_told_to_come_again(self, tmp_path: Path) -> None:
        def answer(method: str, path: str) -> tuple[int, str]:
            try:
                told = server.ask(method, path, AUTHORIZED, CONTENT if method == "PUT" else None)
            except ConnectionError:
                return 0, ""  # the one before has not gone yet
            return told.status, told.headers.get("retry-after", "")

        def turned_away() -> bool:
            with server.connected():
                return answer("GET", "/health") == (0, "")

        with served(tmp_path, limited(WRITABLE, connections=2, spare_connections=1)) as server:
            with server.connected(), server.connected():
                for method, path in (("GET", "/health"), ("PUT", f"/{PACK}")):
                    eventually(lambda method=method, path=path: answer(method, path) == (503, "2"))  # type: ignore[misc]
                eventually(turned_away)
            eventually(lambda: answer("GET", "/health") == (200, ""))
            eventually(lambda: b"forge_cache_connections 1\n" in server.ask("GET", "/metrics").body)

    def test_many_read_and_write_at_once(self, server: Served) -> None:
        contents = [random.Random(at).randbytes(100_000) for at in range(40)]
        paths = [layout.pack_path(blake3_hex(content)) for content in contents]
        with ThreadPoolExecutor(40) as pool:
            assert set(pool.map(server.put_new, paths, contents)) == {201}
            answers = list(pool.map(lambda path: server.ask("GET", f"/{path}"), paths))
        assert [answer.body for answer in answers] == contents


class TestTheDisk:
    """Files that fail as a disk does: /dev/full has no space, and /proc/self/mem cannot be written at its beginning."""

    @pytest.mark.parametrize(("device", "status"), [("/dev/full", 507), ("/proc/self/mem", 500)])
    def test_a_write_that_fails_leaves_nothing(
        self, server: Served, monkeypatch: pytest.MonkeyPatch, device: str, status: int
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Incoming, "create", lambda _: ("none", os.open(device, os.O_RDWR)))
            assert server.put_new(PACK, CONTENT) == status
        assert len(server.recorder.failures) == 1
        assert files_below(server.folder) == set()
        assert server.put_new(PACK, CONTENT) == 201

    def test_a_read_that_fails_is_told_to_both_sides(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ServedFolder, "open", lambda *_: os.open("/proc/self/mem", os.O_RDONLY))
        monkeypatch.setattr(Version, "of", lambda _: Version(1000, 0))
        with contextlib.suppress(ConnectionError):
            assert server.raw(f"GET /{PACK} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).endswith(b"\r\n\r\n")
        eventually(lambda: len(server.recorder.exchanges) == 1)
        assert server.recorder.exchanges[0].status == 0
        assert len(server.recorder.failures) == 1

    def test_a_file_system_without_links_will_do(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_links)
        assert server.put_new(PACK, CONTENT) == 201
        assert server.put_new(PACK, CONTENT) == 412
        assert server.put(PACK, CONTENT) == 204
        assert files_below(server.folder) == {PACK}

    def test_a_file_that_was_cut_is_not_waited_for(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        server.put_new(PACK, CONTENT)
        longer = Version(len(CONTENT) + 1000, 0)
        with monkeypatch.context() as patched:
            patched.setattr(Version, "of", lambda _: longer)
            with server.connected(f"GET /{PACK} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
                with contextlib.suppress(ConnectionError):
                    assert len(read_all(connection)) < longer.size
                eventually(lambda: len(server.recorder.exchanges) == 2)
        assert server.recorder.exchanges[1].status == 0
