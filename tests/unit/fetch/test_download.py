"""Downloads against a server on this machine that lies, truncates, stalls, redirects and repents."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.errors import ExitCode
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.fetcher import Fetcher
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.derivation import Source
from mmojo_forge.model.digest import BlobDigest, Sha256, blake3_hex
from mmojo_forge.net.failure import FailureKind
from mmojo_forge.net.settings import HttpSettings
from tests.support.http_server import (
    CONTENT,
    OTHER,
    Exchange,
    Route,
    Server,
    closed_port,
    dripping,
    endless,
    in_turn,
    serve,
    server_fixture,
    silent,
    stalled,
    status,
    truncated,
)

FIXTURES = (server_fixture,)

IMPATIENT = HttpSettings(
    connect_seconds=2.0,
    stall_seconds=0.3,
    grace_seconds=60.0,
    least_rate=100.0,
    attempts=2,
    backoff_seconds=0.01,
    longest_pause_seconds=0.05,
)


def settings_for(tmp_path: Path, environment: dict[str, str] | None = None, **overrides: Any) -> FetchSettings:
    defaults: dict[str, Any] = {
        "state": tmp_path / "state",
        "machine": tmp_path / "machine",
        "http": IMPATIENT,
        "plain_schemes": frozenset({"http", "file"}),
    }
    given = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, **(environment or {})}
    return FetchSettings(given, **(defaults | overrides))


def fetcher_for(tmp_path: Path, environment: dict[str, str] | None = None, **overrides: Any) -> Fetcher:
    settings = settings_for(tmp_path, environment, **overrides)
    return Fetcher(settings)


def source_of(locator: str, content: bytes = CONTENT, mirrors: tuple[str, ...] = ()) -> Source:
    sha256 = Sha256(hashlib.sha256(content).hexdigest())
    return Source("thing", locator, BlobDigest(blake3_hex(content)), len(content), sha256, mirrors=mirrors)


def failure_of(action: Callable[[], object]) -> FetchError:
    with pytest.raises(FetchError) as caught:
        action()
    return caught.value


@pytest.fixture(name="destination")
def destination_fixture(tmp_path: Path) -> Path:
    return tmp_path / "downloads-thing"


@pytest.fixture(name="part")
def part_fixture(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def test_content_arrives_with_progress(server: Server, tmp_path: Path, destination: Path, part: Path) -> None:
    server.routes["/file"] = serve(CONTENT)
    seen: list[tuple[int, int]] = []
    fetcher_for(tmp_path).fetch(
        source_of(f"url:{server.url()}"), destination, lambda done, total: seen.append((done, total))
    )
    assert destination.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert not part.exists()


def test_what_an_earlier_run_left_is_continued(server: Server, tmp_path: Path, destination: Path, part: Path) -> None:
    server.routes["/file"] = serve(CONTENT)
    part.write_bytes(CONTENT[:1000])
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT
    assert server.asked == [("/file", "bytes=1000-")]


def lying_range(exchange: Exchange) -> None:
    if exchange.headers.get("Range"):
        fields = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "Content-Length": str(len(CONTENT))}
        exchange.answer(206, fields, CONTENT)
    else:
        serve(CONTENT)(exchange)


@pytest.mark.parametrize(
    "route",
    [serve(CONTENT, ranges=False), lying_range, in_turn(status(416), serve(CONTENT))],
    ids=["range ignored", "another range", "range refused"],
)
def test_an_answer_that_does_not_continue_starts_anew(
    server: Server, tmp_path: Path, destination: Path, part: Path, route: Route
) -> None:
    server.routes["/file"] = route
    part.write_bytes(CONTENT[:1000])
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [OTHER[:1000], OTHER[: len(OTHER)], CONTENT + b"more", OTHER.ljust(len(CONTENT))])
def test_a_beginning_that_is_none_is_thrown_away(
    server: Server, tmp_path: Path, destination: Path, part: Path, left: bytes
) -> None:
    server.routes["/file"] = serve(CONTENT)
    part.write_bytes(left)
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT


def test_bytes_that_are_all_here_need_no_network(tmp_path: Path, destination: Path, part: Path) -> None:
    part.write_bytes(CONTENT)
    fetcher_for(tmp_path).fetch(source_of("url:http://127.0.0.1:9/file"), destination)
    assert destination.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes["/file"] = in_turn(truncated(CONTENT, 5000), serve(CONTENT))
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["", "bytes=5000-"]


def test_a_connection_that_always_breaks_is_an_error_and_keeps_what_came(
    server: Server, tmp_path: Path, destination: Path, part: Path
) -> None:
    server.routes["/file"] = truncated(CONTENT, 5000)
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "truncated"
    assert part.read_bytes() == CONTENT[:5000]
    assert not destination.exists()


def test_a_server_that_is_busy_for_a_moment_is_asked_again(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes["/file"] = in_turn(status(503, {"Retry-After": "1"}), serve(CONTENT))
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "reason", "requests"),
    [
        (500, "server-error", 2),
        (503, "server-error", 2),
        (429, "server-error", 2),
        (404, "not-found", 1),
        (410, "not-found", 1),
        (403, "request-refused", 1),
        (401, "request-refused", 1),
    ],
)
def test_statuses_have_their_reasons_and_only_passing_ones_are_tried_again(
    server: Server, tmp_path: Path, destination: Path, code: int, reason: str, requests: int
) -> None:
    server.routes["/file"] = status(code, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == reason
    assert len(server.asked) == requests


def test_other_content_is_kept_aside_and_never_at_the_destination(
    server: Server, tmp_path: Path, destination: Path, part: Path
) -> None:
    wrong = CONTENT[:-1] + b"!"
    server.routes["/file"] = serve(wrong)
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "hash-mismatch"
    assert error.mismatch is not None and error.mismatch.kept is not None
    assert error.mismatch.expected == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert error.mismatch.got == f"sha256:{hashlib.sha256(wrong).hexdigest()}"
    assert error.mismatch.origin == server.url()
    assert error.mismatch.kept.read_bytes() == wrong
    assert not destination.exists() and not part.exists()


def test_a_shorter_file_is_other_content(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes["/file"] = serve(CONTENT[:100])
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "hash-mismatch"


@pytest.mark.parametrize(
    "bad",
    [serve(OTHER[: len(CONTENT)]), truncated(OTHER.ljust(len(CONTENT)), 5000), status(404), stalled(CONTENT, 10)],
    ids=["other content", "other content, truncated", "not there", "stalled"],
)
def test_the_next_mirror_helps(server: Server, tmp_path: Path, destination: Path, bad: Route) -> None:
    server.routes |= {"/file": bad, "/mirror": serve(CONTENT)}
    source = source_of(f"url:{server.url()}", mirrors=(server.url("/mirror"),))
    fetcher_for(tmp_path).fetch(source, destination)
    assert destination.read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == [destination.name]


def test_more_than_the_pinned_size_ends_the_transfer_before_it_begins(
    server: Server, tmp_path: Path, destination: Path, part: Path
) -> None:
    server.routes["/file"] = serve(CONTENT + b"more")
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "size-exceeded"
    assert part.stat().st_size == 0


def test_an_endless_answer_is_cut_off(server: Server, tmp_path: Path, destination: Path, part: Path) -> None:
    server.routes["/file"] = endless
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "size-exceeded"
    assert part.stat().st_size <= len(CONTENT)


@pytest.mark.parametrize("route", [stalled(CONTENT, 5000), dripping, silent])
def test_a_server_that_stalls_is_an_error(server: Server, tmp_path: Path, destination: Path, route: Route) -> None:
    server.routes["/file"] = route
    fetcher = fetcher_for(tmp_path, http=replace(IMPATIENT, grace_seconds=0.3, attempts=1))
    error = failure_of(lambda: fetcher.fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "server-stalled"
    assert error.exit_code is ExitCode.ENVIRONMENT_ERROR


def test_a_dead_network_lists_every_url_with_its_cause(tmp_path: Path, destination: Path) -> None:
    urls = [f"http://127.0.0.1:{closed_port()}/file" for _ in range(2)]
    source = source_of(f"url:{urls[0]}", mirrors=(urls[1],))
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source, destination))
    assert error.reason == "network-unreachable"
    assert [url for url, _ in error.attempts] == urls
    assert all(cause for _, cause in error.attempts)
    assert error.exit_code is ExitCode.ENVIRONMENT_ERROR


def test_one_connection_serves_many_downloads(server: Server, tmp_path: Path, destination: Path) -> None:
    """To open one takes longer than a small file does; what it was used for before must leave no trace."""
    ports: list[int] = []
    cookies: list[str] = []

    def route(exchange: Exchange) -> None:
        ports.append(exchange.client_address[1])
        cookies.append(exchange.headers.get("Cookie", ""))
        serve(CONTENT, headers={"Set-Cookie": "a=b"})(exchange)

    server.routes["/file"] = route
    fetcher = fetcher_for(tmp_path)
    for _ in range(5):
        fetcher.fetch(source_of(f"url:{server.url()}"), destination)
        destination.unlink()
    assert (len(set(ports)), set(cookies)) == (1, {""})


def test_a_connection_that_the_server_closes_is_opened_anew(server: Server, tmp_path: Path, destination: Path) -> None:
    def closing(exchange: Exchange) -> None:
        serve(CONTENT)(exchange)
        exchange.close_connection = True  # without saying so beforehand

    server.routes["/file"] = closing
    fetcher = fetcher_for(tmp_path)
    for _ in range(3):
        fetcher.fetch(source_of(f"url:{server.url()}"), destination)
        assert destination.read_bytes() == CONTENT
        destination.unlink()


def test_redirects_are_followed(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes |= {
        "/file": status(302, {"Location": "/second"}),
        "/second": status(307, {"Location": server.url("/third")}),
        "/third": serve(CONTENT),
    }
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/file", "too-many-redirects"),
        ("file:///etc/hostname", "insecure-redirect"),
        ("ftp://x/y", "insecure-redirect"),
        ("http://[", "too-many-redirects"),
    ],
)
def test_redirects_that_lead_astray_are_not_followed(
    server: Server, tmp_path: Path, destination: Path, target: str, reason: str
) -> None:
    server.routes["/file"] = status(301, {"Location": target})
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == reason
    assert len(server.asked) <= 6


def test_the_body_of_a_redirect_is_not_read(server: Server, tmp_path: Path, destination: Path) -> None:
    def route(exchange: Exchange) -> None:
        exchange.answer(302, {"Location": "/second", "Connection": "close"})
        while not exchange.server.closing.is_set():
            exchange.wfile.write(bytes(1 << 16))

    server.routes |= {"/file": route, "/second": serve(CONTENT)}
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination)
    assert destination.read_bytes() == CONTENT


def test_content_is_never_decompressed(server: Server, tmp_path: Path, destination: Path) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    server.routes["/file"] = serve(packed, headers={"Content-Encoding": "gzip"})
    fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}", packed), destination)
    assert destination.read_bytes() == packed


def test_cancelling_ends_a_read_that_waits(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes["/file"] = stalled(CONTENT, 200_000)
    fetcher = fetcher_for(tmp_path, http=replace(IMPATIENT, stall_seconds=60.0))
    arrived = threading.Event()
    source = source_of(f"url:{server.url()}")
    reasons: list[str] = []

    def work() -> None:
        reasons.append(failure_of(lambda: fetcher.fetch(source, destination, lambda *_: arrived.set())).reason)

    thread = threading.Thread(target=work)
    thread.start()
    assert arrived.wait(10)
    fetcher.cancel()
    thread.join(10)
    assert reasons == ["cancelled"]
    assert failure_of(lambda: fetcher.fetch(source, destination)).reason == "cancelled"


def test_what_the_progress_callback_raises_ends_the_download(
    server: Server, tmp_path: Path, destination: Path, part: Path
) -> None:
    server.routes["/file"] = serve(CONTENT)

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination, stop)
    assert 0 < part.stat().st_size <= len(CONTENT)


def test_a_file_that_cannot_be_written_is_an_error(server: Server, tmp_path: Path, destination: Path) -> None:
    server.routes["/file"] = serve(CONTENT)
    source = source_of(f"url:{server.url()}")
    assert failure_of(lambda: fetcher_for(tmp_path).fetch(source, tmp_path / "no" / "x")).reason == "write-failed"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        error = failure_of(lambda: fetcher_for(tmp_path).fetch(source, destination))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.reason == "write-failed"


def test_a_symlink_in_the_place_of_the_part_is_not_followed(
    server: Server, tmp_path: Path, destination: Path, part: Path
) -> None:
    server.routes["/file"] = serve(CONTENT)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part.symlink_to(victim)
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason == "write-failed"
    assert victim.read_bytes() == b"precious"


def test_credentials_appear_in_no_message(tmp_path: Path, destination: Path) -> None:
    mirror = f"http://somebody:hidden@127.0.0.1:{closed_port()}/file?token=hidden"
    source = source_of(f"url:http://127.0.0.1:{closed_port()}/file", mirrors=(mirror,))
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source, destination))
    assert error.reason == "network-unreachable"
    assert "hidden" not in f"{error} {error.attempts} {error.__cause__}"
    refused = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{mirror}"), destination))
    assert refused.reason == "locator-credentials" and "hidden" not in str(refused)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/file", "file:///etc/hostname", "ftp://mirror.example/file"])
def test_plain_schemes_are_refused_unless_allowed(tmp_path: Path, destination: Path, url: str) -> None:
    fetcher = fetcher_for(tmp_path, plain_schemes=frozenset())
    assert failure_of(lambda: fetcher.fetch(source_of(f"url:{url}"), destination)).reason == "scheme-refused"
    source = source_of("url:https://127.0.0.1:1/file", mirrors=(url,))
    assert failure_of(lambda: fetcher.fetch(source, destination)).reason == "scheme-refused"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000},
        {"Content-Length": "-1"},
        {"Content-Length": "many"},
        {"Content-Range": "bytes 5-6/7"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Encoding": "gzip"},
        {"Retry-After": "9" * 5000},
        {"Retry-After": "yesterday"},
    ],
    ids=lambda headers: str(headers)[:40],
)
@pytest.mark.parametrize("code", [200, 206, 503])
def test_headers_that_make_no_sense_are_failures_of_the_server_at_worst(
    server: Server, tmp_path: Path, destination: Path, part: Path, headers: dict[str, str], code: int
) -> None:
    def route(exchange: Exchange) -> None:
        exchange.answer(code, headers, CONTENT[:3000])
        exchange.close_connection = True

    server.routes["/file"] = route
    part.write_bytes(CONTENT[:10])
    error = failure_of(lambda: fetcher_for(tmp_path).fetch(source_of(f"url:{server.url()}"), destination))
    assert error.reason in set(FailureKind)
    assert not destination.exists()


def test_a_url_is_resolved_to_what_it_gives_now(server: Server, tmp_path: Path, destination: Path, part: Path) -> None:
    server.routes["/file"] = serve(CONTENT)
    part.write_bytes(OTHER[:500])
    mirrors = (server.url("/mirror"),)
    pin = fetcher_for(tmp_path).resolve("thing", f"url:{server.url()}", mirrors, destination)
    source = source_of(f"url:{server.url()}")
    assert (pin.sha256, pin.blake3, pin.size) == (source.sha256, source.digest, source.size)
    assert (pin.name, pin.locator, pin.mirrors) == ("thing", f"url:{server.url()}", mirrors)
    assert destination.read_bytes() == CONTENT
    assert server.asked == [("/file", "")]


def test_an_unwritable_cache_folder_is_an_error(tmp_path: Path, destination: Path) -> None:
    (tmp_path / "state").write_text("a file")
    error = failure_of(
        lambda: fetcher_for(tmp_path).resolve("x", f"git:https://mirror.example/x.git#{'0' * 40}", (), destination)
    )
    assert error.reason == "state-unwritable"
