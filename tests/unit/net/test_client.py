"""Exchanges: what is kept between them, what wakes them, and what is never waited for."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure, innermost_cause
from mmojo_forge.net.settings import HttpSettings
from mmojo_forge.net.stream import open_stream, read_document, read_head, with_retries
from mmojo_forge.net.url import OwnOrigin
from tests.support.authority import Authority
from tests.support.http_server import (
    CONTENT,
    Exchange,
    Route,
    Server,
    closed_port,
    dripping,
    endless,
    in_turn,
    running_server,
    serve,
    server_fixture,
    stalled,
    status,
)

FIXTURES = (server_fixture,)
IMPATIENT = HttpSettings(
    connect_seconds=2.0, stall_seconds=0.3, attempts=2, backoff_seconds=0.01, longest_pause_seconds=0.05
)
PATIENT = HttpSettings(connect_seconds=60.0, stall_seconds=60.0)
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Secure:
    """Listens with TLS; `authority` is the file with the certificate to trust."""

    server: ssl.SSLSocket
    authority: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.getsockname()[1]}/file"


def kind_of(action: Callable[[], object]) -> FailureKind:
    with pytest.raises(UrlFailure) as caught:
        action()
    return caught.value.kind


def read(client: HttpClient, url: str) -> bytes:
    with client.exchange("GET", url) as answer:
        return b"".join(iter(lambda: answer.read(1 << 16), b""))


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [b"", HEADERS[:20], HEADERS, HEADERS + b"beginning", CLOSING, CLOSING + b"beginning"],
    ids=["nothing", "a header", "all headers", "a beginning", "headers that end", "a beginning that ends"],
)
@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "proxy"])
def test_cancelling_wakes_whoever_waits(sent: bytes, proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server said that it closes the connection, which http.client forgets then."""
    with listening() as server, ExitStack() as stack:
        place = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("http_proxy" if proxy else "NO_PROXY", place if proxy else "127.0.0.1")
        client = HttpClient(PATIENT)
        kinds: list[FailureKind] = []
        url = "http://mirror.example/file" if proxy else place
        waiting = threading.Thread(target=lambda: kinds.append(kind_of(lambda: read(client, url))), daemon=True)
        waiting.start()
        connection = stack.enter_context(server.accept()[0])
        connection.recv(10_000)
        connection.sendall(sent)
        waiting.join(0.2)
        client.cancellation.cancel()
        waiting.join(10)
        assert kinds == [FailureKind.CANCELLED]
        assert kind_of(lambda: read(client, url)) is FailureKind.CANCELLED


@pytest.fixture(name="secure")
def secure_fixture(tmp_path: Path) -> Iterator[Secure]:
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with socket.create_server(("127.0.0.1", 0)) as plain, context.wrap_socket(plain, server_side=True) as server:
        yield Secure(server, authority.file)


def test_cancelling_wakes_whoever_waits_for_tls(secure: Secure) -> None:
    client = HttpClient(PATIENT).with_certificates(str(secure.authority))
    found: list[bytes | FailureKind] = []

    def wait() -> None:
        try:
            with client.exchange("GET", secure.url) as answer:
                found.append(answer.read(1 << 16))
                answer.read(1 << 16)
        except UrlFailure as failure:
            found.append(failure.kind)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    with secure.server.accept()[0] as connection:
        connection.recv(10_000)
        connection.sendall(CLOSING + b"beginning")
        waiting.join(0.2)
        client.cancellation.cancel()
        waiting.join(10)
    assert found == [b"beginning", FailureKind.CANCELLED]


def test_a_certificate_that_nobody_vouches_for_is_a_failure(secure: Secure) -> None:
    def refuse() -> None:
        with pytest.raises(OSError):
            secure.server.accept()

    waiting = threading.Thread(target=refuse, daemon=True)
    waiting.start()
    with pytest.raises(UrlFailure) as caught:
        read(HttpClient(IMPATIENT), secure.url)
    waiting.join(10)
    assert caught.value.kind is FailureKind.UNREACHABLE and "certificate" in caught.value.cause


def test_cancelling_ends_a_pause_between_two_tries(server: Server) -> None:
    server.routes["/file"] = status(503, {"Retry-After": "60"})
    client = HttpClient(replace(IMPATIENT, longest_pause_seconds=60.0))
    timer = threading.Timer(0.2, client.cancellation.cancel)
    timer.start()
    assert kind_of(lambda: read_document(client, server.url())) is FailureKind.CANCELLED


def ports_of(server: Server, route: Route, ask: Callable[[HttpClient], object]) -> int:
    """Over how many connections three requests go."""
    ports: set[int] = set()

    def noting(exchange: Exchange) -> None:
        ports.add(exchange.client_address[1])
        route(exchange)

    server.routes = {"/file": noting, "/second": serve(b"second")}
    client = HttpClient(IMPATIENT)
    for _ in range(3):
        ask(client)
    return len(ports)


def with_body(code: int, headers: dict[str, str]) -> Route:
    return lambda exchange: exchange.answer(code, {"Content-Length": "9", **headers}, b"<html></>")


@pytest.mark.parametrize(
    "route", [serve(b"x"), with_body(404, {}), with_body(302, {"Location": "/second"})], ids=["200", "404", "302"]
)
def test_a_connection_is_used_again_whatever_the_answer(server: Server, route: Route) -> None:
    def ask(client: HttpClient) -> None:
        with client.exchange("GET", server.url()) as answer:
            assert answer.status

    assert ports_of(server, route, ask) == 1


def test_a_body_that_nobody_reads_is_not_waited_for_twice(server: Server) -> None:
    """One read to use the connection again; a server that drips must not hold us by it."""
    seen: list[bytes] = []

    def route(exchange: Exchange) -> None:
        exchange.answer(404, {"Content-Length": "1000"})
        while not exchange.server.closing.wait(0.05):
            exchange.wfile.write(b"x")
            seen.append(b"x")

    server.routes["/file"] = route
    assert kind_of(lambda: read_document(HttpClient(IMPATIENT), server.url())) is FailureKind.GONE
    assert len(seen) < 100


def test_no_cookie_is_kept(server: Server) -> None:
    cookies: list[str] = []

    def route(exchange: Exchange) -> None:
        cookies.append(exchange.headers.get("Cookie", ""))
        serve(b"x", headers={"Set-Cookie": "a=b"})(exchange)

    server.routes["/file"] = route
    client = HttpClient(IMPATIENT)
    assert [read(client, server.url()) for _ in range(2)] == [b"x", b"x"]
    assert cookies == ["", ""]


def test_a_token_is_sent_to_its_own_server_whatever_netrc_says(
    server: Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[str] = []

    def route(exchange: Exchange) -> None:
        seen.append(exchange.headers.get("Authorization", ""))
        serve(b"x")(exchange)

    server.routes["/file"] = route
    policy = OwnOrigin(server.url(""), frozenset(), "secret")
    assert read(HttpClient(IMPATIENT, policy), server.url()) == b"x"
    assert seen == ["Bearer secret"]


def test_a_redirect_that_is_refused_is_never_asked(server: Server) -> None:
    with running_server() as other:
        other.routes["/file"] = serve(b"x")
        server.routes["/file"] = status(302, {"Location": other.url()})
        client = HttpClient(IMPATIENT, OwnOrigin(server.url(""), frozenset({"127.0.0.1"}), "secret"))
        assert kind_of(lambda: read(client, server.url())) is FailureKind.INSECURE
        assert other.asked == []


@pytest.mark.parametrize(
    ("route", "settings", "expected"),
    [
        (dripping, replace(IMPATIENT, grace_seconds=0.3), FailureKind.SLOW),
        (stalled(CONTENT, 10), IMPATIENT, FailureKind.STALLED),
        (endless, IMPATIENT, FailureKind.TOO_LARGE),
        (with_body(206, {"Content-Range": "bytes 5-13/20"}), IMPATIENT, FailureKind.REFUSED),
        (with_body(206, {}), IMPATIENT, FailureKind.REFUSED),
        (with_body(200, {"Content-Length": "10", "Connection": "close"}), IMPATIENT, FailureKind.TRUNCATED),
    ],
    ids=["slow", "stalled", "endless", "a part", "some part", "truncated"],
)
def test_a_document_that_does_not_come_is_a_failure(
    server: Server, route: Route, settings: HttpSettings, expected: FailureKind
) -> None:
    def closing(exchange: Exchange) -> None:
        route(exchange)
        exchange.close_connection = True

    server.routes["/file"] = closing
    client = HttpClient(replace(settings, attempts=1))
    assert kind_of(lambda: read_document(client, server.url(), limit=1 << 21)) is expected


def test_a_head_is_read_without_the_rest(server: Server) -> None:
    server.routes["/file"] = endless
    assert len(read_head(HttpClient(IMPATIENT), server.url(), 4096)) >= 4096


def test_a_file_is_a_stream_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "index.html"
    path.write_bytes(b"0123456789")
    client = HttpClient(IMPATIENT)
    with open_stream(client, path.as_uri(), start=4) as stream:
        assert (stream.start, stream.total, stream.content_type) == (4, 10, "text/html")
        assert b"".join(stream.chunks) == b"456789"
    assert kind_of(lambda: read_document(client, f"{path.as_uri()}.none")) is FailureKind.GONE
    assert kind_of(lambda: read_document(client, "ftp://mirror.example/x")) is FailureKind.REFUSED


@pytest.mark.parametrize("asked", [None, 3600.0])
def test_tries_are_bounded_whatever_the_server_asks_for(asked: float | None) -> None:
    tries: list[int] = []

    def operation() -> None:
        tries.append(1)
        raise UrlFailure("u", FailureKind.SERVER, "busy", retry_after=asked)

    assert kind_of(lambda: with_retries(HttpClient(replace(IMPATIENT, attempts=3)), operation)) is FailureKind.SERVER
    assert len(tries) == 3


def test_what_lasts_is_not_tried_again(server: Server) -> None:
    server.routes["/file"] = in_turn(status(403), serve(b"x"))
    assert kind_of(lambda: read_document(HttpClient(IMPATIENT), server.url())) is FailureKind.REFUSED
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["http://[", "http://", "http://x:y/", "http://mirror.example:99999/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    assert kind_of(lambda: read(HttpClient(IMPATIENT), url)) is FailureKind.REFUSED


def test_a_failure_shows_its_innermost_cause_and_no_secret() -> None:
    with pytest.raises(UrlFailure) as caught:
        read(HttpClient(IMPATIENT), f"http://me:hidden@127.0.0.1:{closed_port()}/x?key=hidden")
    assert caught.value.kind is FailureKind.UNREACHABLE
    assert "hidden" not in f"{caught.value} {caught.value.cause} {caught.value.url}"
    assert "refused" in caught.value.cause


def test_a_cause_without_words_has_a_name() -> None:
    try:
        try:
            raise ConnectionResetError
        except OSError as error:
            raise ValueError("outer https://me:hidden@mirror.example/") from error
    except ValueError as error:
        assert innermost_cause(error) == "ConnectionResetError"
    assert innermost_cause(ValueError("at https://me:hidden@mirror.example/")) == "at https://mirror.example/"
