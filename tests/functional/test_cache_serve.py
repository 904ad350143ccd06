"""`forge cache serve` as a process: how it starts and stops, TLS, kills, and a crowd."""

from __future__ import annotations

import json
import random
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.server.server import TlsFiles
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.cache.write.writer import CacheWriter
from mmojo_forge.model.digest import blake3_hex
from mmojo_forge.net.settings import HttpSettings
from tests.support.authority import Authority
from tests.support.cache_serving import (
    READ_TOKEN,
    REPOSITORY,
    TOKEN,
    WRITABLE,
    environment,
    eventually,
    limited,
    put_head,
    served,
    server_command,
    server_process,
    token_file,
    unfinished,
)
from tests.support.caches import CheckingSink, Files, reason

CONTENT = random.Random(1).randbytes(300_000)
PACK = layout.pack_path(blake3_hex(CONTENT))
RESULT = f"ac/{'a' * 64}"
MOST_MEMORY = 256 << 20


def transport_to(url: str, **settings: Any) -> WebTransport:
    return WebTransport(url, HttpSettings(token=TOKEN, **settings))


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def peak_memory(process: subprocess.Popen[str]) -> int:
    (line,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) << 10


def error_of(folder: Path, *arguments: str | Path) -> str:
    """The reason of the error that the command ends with."""
    done = subprocess.run(
        server_command(folder, "--json", *arguments),
        cwd=REPOSITORY, env=environment(folder.parent), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    told: str = json.loads(done.stderr)["error"]["reason"]
    return told


class TestStartingAndStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_tells_its_url_and_ends_when_it_is_told_to(self, tmp_path: Path, number: int) -> None:
        with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path)) as (process, url):
            transport = transport_to(url)
            transport.put(PACK, CONTENT)
            with connect(url) as busy:  # an upload that does not go on, beside an idle connection
                busy.sendall(put_head(RESULT, 100) + b"hello")
                while not unfinished(tmp_path / "cache"):
                    pass
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
            transport.close()
        assert (process.returncode, out, err) == (0, "", "")
        assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [PACK.rpartition("/")[2]]

    def test_each_request_is_a_line_with_verbose(self, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        with server_process(tmp_path / "cache", "--verbose") as (process, url):
            with connect(url) as connection:
                connection.sendall(b"GET /nonsense HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b" 404 " in connection.recv(1000)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        (line,) = err.splitlines()
        assert line.startswith("127.0.0.1 GET /nonsense 404 not-found ")

    def test_programs_are_told_in_json(self, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        with server_process(tmp_path / "cache", "--json") as (process, line):
            told = json.loads(line)
            assert (told["schema"], told["pid"]) == (1, process.pid)
            assert WebTransport(told["url"]).size(PACK) is None

    def test_what_cannot_be_served_is_an_error(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        assert error_of(cache) == "serve-folder"
        cache.mkdir()
        open_file = token_file(tmp_path)
        assert error_of(cache, "--listen", "0.0.0.0:0") == "serve-plain"
        assert error_of(cache, "--listen", "nonsense") == "serve-listen"
        assert error_of(cache, "--tls-cert", "none.pem", "--tls-key", "none.pem") == "serve-tls"
        open_file.chmod(0o644)
        assert error_of(cache, "--token-file", open_file) == "serve-tokens"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert error_of(cache, "--listen", f"127.0.0.1:{taken.getsockname()[1]}") == "serve-listen"

    def test_other_addresses_are_listened_to_where_that_is_meant(self, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        with (
            server_process(tmp_path / "cache", "--plain", "--listen", "0.0.0.0:0") as (_, url),
            connect(url.replace("0.0.0.0", "127.0.0.1")) as connection,
        ):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_kill_leaves_nothing_that_the_next_start_does_not_remove(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tokens = ("--token-file", token_file(tmp_path))
    with server_process(cache, *tokens) as (living, other_url):
        with server_process(cache, *tokens) as (process, url):
            transport = transport_to(url)
            transport.put(PACK, CONTENT)
            with connect(url) as killed, connect(other_url) as going_on:
                killed.sendall(put_head(RESULT, 100) + b"hello")
                going_on.sendall(put_head(RESULT, 100) + bytes(50))
                while len(unfinished(cache)) < 2:
                    pass
                process.kill()
                process.wait()
                assert len(unfinished(cache)) == 2
                with server_process(cache, *tokens) as (_, third_url):
                    assert len(unfinished(cache)) == 1
                    going_on.sendall(bytes(50))
                    assert going_on.recv(100).startswith(b"HTTP/1.1 201 ")
                    again = transport_to(third_url)
                    assert again.size(PACK) == len(CONTENT)
                    assert again.size(RESULT) == 100
                    again.close()
            transport.close()
        living.send_signal(signal.SIGTERM)
        living.communicate(timeout=30)
    assert unfinished(cache) == []


def small_tree() -> Files:
    chance = random.Random(7)
    small = {f"include/{at:03}.h": chance.randbytes(50).hex().encode() * 20 for at in range(100)}
    return Files({**small, "bin/tool*": chance.randbytes(900_000), "lib/library.a": chance.randbytes(400_000)})


def test_a_hundred_clients_pull_at_once_in_bounded_memory(tmp_path: Path) -> None:
    files = small_tree()
    with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path)) as (process, url):
        writing = transport_to(url)
        CacheWriter(writing).ensure_info(CacheInfo())
        CacheWriter(writing).push([files.item])
        writing.close()

        def pull(number: int) -> bool:
            transport = WebTransport(url)
            sink = CheckingSink()
            reader = CacheReader(transport, ())
            reader.fetch_tree(files.tree.id, sink, tmp_path / f"partial{number}", size=files.tree.size)
            transport.close()
            return sink.has_all_of(files.tree)

        with ThreadPoolExecutor(100) as pool:
            assert all(pool.map(pull, range(100)))
        assert peak_memory(process) < MOST_MEMORY
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")


def test_large_uploads_take_no_memory(tmp_path: Path) -> None:
    """A blob of the size of the allowance, sent in chunks by one who never has it whole either."""
    block = random.Random(2).randbytes(1 << 20)
    count = MOST_MEMORY >> 20
    digest = sha256(block * count).hexdigest()
    with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path)) as (process, url):
        before = peak_memory(process)
        connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("PUT", f"/cas/{digest}", iter([block] * count), headers)
        assert connection.getresponse().status == 201
        connection.close()
        assert peak_memory(process) - before < 64 << 20


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    yield Authority(tmp_path, "authority")


class TestTls:
    def ask(self, url: str, context: ssl.SSLContext) -> int:
        connection = HTTPSConnection(urlsplit(url).netloc, context=context, timeout=30)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        finally:
            connection.close()

    def test_a_cache_works_the_same_over_tls(self, tmp_path: Path, authority: Authority) -> None:
        certificate, key = authority.issue("server")
        tls = ("--tls-cert", certificate, "--tls-key", key)
        files = small_tree()
        with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path), *tls) as (_, url):
            assert url.startswith("https://127.0.0.1:")
            transport = transport_to(url, ca_bundle=str(authority.file))
            CacheWriter(transport).push([files.item])
            sink = CheckingSink()
            CacheReader(transport, ()).fetch_tree(files.tree.id, sink, tmp_path / "partial")
            assert sink.has_all_of(files.tree)
            transport.close()
            stranger = WebTransport(url)
            assert reason(lambda: stranger.size(PACK)) == "cache-unreachable"
            stranger.close()

    def test_old_versions_of_tls_are_not_spoken(self, tmp_path: Path, authority: Authority) -> None:
        certificate, key = authority.issue("server")
        (tmp_path / "cache").mkdir()
        with server_process(tmp_path / "cache", "--tls-cert", certificate, "--tls-key", key) as (_, url):
            context = ssl.create_default_context(cafile=str(authority.file))
            assert self.ask(url, context) == 200
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                self.ask(url, context)
            with connect(url) as plain:
                plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"200" not in plain.recv(100)

    def test_who_does_not_agree_on_tls_or_takes_nothing_is_given_up(self, tmp_path: Path, authority: Authority) -> None:
        settings = limited(WRITABLE, header_seconds=0.3, grace_seconds=0.5, least_rate=1e9)
        content = bytes(32 << 20)
        blob = f"cas/{sha256(content).hexdigest()}"
        with served(tmp_path / "cache", replace(settings, tls=TlsFiles(*authority.issue("server")))) as server:
            with server.connected() as silent:
                assert silent.recv(1) == b""
            context = ssl.create_default_context(cafile=str(authority.file))
            file = tmp_path / "cache" / "cas" / blob[4:6] / blob[4:]
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
            with server.connected() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as lazy:
                lazy.sendall(f"GET /{blob} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                eventually(lambda: bool(server.recorder.exchanges))
                assert server.recorder.exchanges[0].status == 0
            assert self.ask(server.url, context) == 200
            assert server.recorder.failures == []

    def test_clients_can_be_asked_for_a_certificate(self, tmp_path: Path, authority: Authority) -> None:
        certificate, key = authority.issue("server")
        tls = ("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.file)
        (tmp_path / "cache").mkdir()
        with server_process(tmp_path / "cache", *tls) as (_, url):
            context = ssl.create_default_context(cafile=str(authority.file))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                self.ask(url, context)
            context.load_cert_chain(*Authority(tmp_path, "stranger").issue("intruder"))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                self.ask(url, context)
            context = ssl.create_default_context(cafile=str(authority.file))
            context.load_cert_chain(*authority.issue("client"))
            assert self.ask(url, context) == 200


def test_reading_can_be_for_those_with_a_token(tmp_path: Path) -> None:
    tokens = ("--token-file", token_file(tmp_path), "--read-token-file", token_file(tmp_path, READ_TOKEN))
    with server_process(tmp_path / "cache", *tokens) as (_, url):
        transport = transport_to(url)
        assert transport.put(PACK, CONTENT)
        transport.close()
        reading = WebTransport(url, HttpSettings(token=READ_TOKEN))
        assert reading.size(PACK) == len(CONTENT)
        assert reason(lambda: reading.delete(PACK)) == "cache-refused"
        reading.close()
        anybody = WebTransport(url)
        assert reason(lambda: anybody.size(PACK)) == "cache-refused"
        anybody.close()


def test_what_is_too_much_is_refused(tmp_path: Path) -> None:
    with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path), "--max-size", "100kB") as (_, url):
        transport = transport_to(url)
        assert reason(lambda: transport.put(PACK, CONTENT)) == "cache-server-error"
        transport.close()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
