"""A cache in a bucket: the whole layout in an S3 server, and stores that fail, stall, or do not know conditions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.gc.collect import collect, plan_collection
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport import bucket
from mmojo_forge.cache.transport.bucket import BucketTransport
from mmojo_forge.cache.transport.protocol import Span, read_whole
from mmojo_forge.cache.write.writer import CacheWriter
from mmojo_forge.model.digest import DerivationId
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_servers import s3_server
from tests.support.caches import ALICE, Files, FileServer, Handler, drip, reason, serving, trace_of
from tests.unit.engine.cache.test_push import bulk, fetched

ROOT = DerivationId("d" * 64)
IMPATIENT = HttpSettings(connect_seconds=2, stall_seconds=0.4, grace_seconds=0.3, least_rate=1e5)
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "verysecret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[Mapping[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def transport(s3: Mapping[str, str], tmp_path: Path) -> BucketTransport:
    return BucketTransport(f"s3://cache/{tmp_path.name}/deep", environment=s3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """No S3, but what a test makes it answer."""
    with serving(tmp_path) as one:
        yield one


def at(server: FileServer, **more: str) -> BucketTransport:
    return BucketTransport("s3://cache/x", IMPATIENT, {**KEYS, "AWS_ENDPOINT_URL": server.url, **more})


def answering(status: int) -> Callable[[Handler], bool]:
    def odd(exchange: Handler) -> bool:
        exchange.answer(status, {}, b"<Error><Code>Odd</Code></Error>")
        return True

    return odd


def test_a_whole_cache_is_pushed_and_fetched(transport: BucketTransport, tmp_path: Path) -> None:
    files = Files(bulk(1, 100), name="zig-0.15.1")
    trace = trace_of(output=files.tree.id, size=files.tree.size)
    writer = CacheWriter(transport, pack_bytes=1 << 20)
    writer.ensure_info(CacheInfo())
    first = writer.push([files.item], [trace], {ROOT: [trace]}, signer=ALICE.public)
    assert (first.trees, first.traces) == (1, 1)
    assert writer.push([files.item], [trace], {ROOT: [trace]}, signer=ALICE.public).trees_known == 1
    reader = CacheReader(transport, [ALICE.public])
    assert set(reader.fetch_index([ROOT]).traces) == {trace.key}
    assert set(reader.fetch_traces([trace.key]).traces) == {trace.key}
    fetched(transport, files, tmp_path / "partial")
    changed = Files({**files.content, "lib/0/00000.h": b"changed"}, name="zig-0.15.2")
    assert writer.push([changed.item]).sent_bytes < first.sent_bytes / 5
    fetched(transport, changed, tmp_path / "partial")


def test_a_bucket_is_collected(transport: BucketTransport) -> None:
    CacheWriter(transport).push([Files({"a": random.Random(1).randbytes(90_000)}).item])
    listed = transport.entries("names/thing")
    planned = plan_collection(transport, listed[0].modified + 86400, 3600, grace=0.0)
    assert planned.total == planned.size_before > 90_000
    assert collect(transport, planned).total == planned.total
    assert plan_collection(transport, listed[0].modified + 86400, 3600, grace=0.0).size_before == 0


def test_caches_in_one_bucket_do_not_see_each_other(s3: Mapping[str, str], tmp_path: Path) -> None:
    one = BucketTransport(f"s3://cache/{tmp_path.name}/one", environment=s3)
    other = BucketTransport(f"s3://cache/{tmp_path.name}/on", environment=s3)
    one.put("names/x/y", b"1")
    assert other.size("names/x/y") is None
    assert other.entries("names") == []


def test_the_endpoint_for_buckets_alone_comes_first(s3: Mapping[str, str], tmp_path: Path) -> None:
    environment = {**s3, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": s3["AWS_ENDPOINT_URL"]}
    assert BucketTransport(f"s3://cache/{tmp_path.name}", environment=environment).put("x", b"1")


def test_a_bucket_that_is_not_there_is_refused(s3: Mapping[str, str]) -> None:
    transport = BucketTransport("s3://nowhere/x", environment=s3)
    assert reason(lambda: transport.put("x", b"1")) == "cache-refused"
    assert reason(lambda: transport.entries("x")) == "cache-refused"
    assert reason(lambda: read_whole(transport, "x", 1)) == "cache-missing"


def test_a_store_that_knows_no_conditions_is_looked_at_first(s3: Mapping[str, str], tmp_path: Path) -> None:
    place = f"s3://cache/{tmp_path.name}"
    transport = BucketTransport(place, environment={**s3, "AWS_CONDITIONAL_PUT": "disabled"})
    assert transport.put("x", b"first")
    assert not transport.put("x", b"second")
    assert read_whole(transport, "x", 10) == b"first"
    assert transport.put("x", b"third", if_absent=False)
    assert read_whole(transport, "x", 10) == b"third"


def test_a_store_that_refuses_conditions_is_looked_at_first(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        if exchange.command == "PUT":
            exchange.answer(501 if exchange.headers.get("If-None-Match") else 200, {"ETag": '"x"'})
        else:
            exchange.answer(404)
        return True

    server.odd = odd
    transport = at(server)
    assert transport.put("x", b"1")
    assert transport.put("y", b"2")
    # The library tries an answer of 501 again twice.
    assert [command for command, _ in server.asked] == ["PUT"] * 3 + ["HEAD", "PUT"] * 2


@pytest.mark.parametrize(
    ("status", "expected", "fault"),
    [
        (403, "cache-refused", CacheFault.REFUSING),
        (401, "cache-refused", CacheFault.REFUSING),
        (405, "cache-read-only", CacheFault.REFUSING),
        (400, "cache-server-error", CacheFault.FAILING),
        (500, "cache-server-error", CacheFault.FAILING),
        (503, "cache-server-error", CacheFault.FAILING),
    ],
)
def test_a_status_is_an_error(server: FileServer, status: int, expected: str, fault: CacheFault) -> None:
    server.odd = answering(status)
    transport = at(server)
    for work in (
        lambda: transport.put("x", b"1"),
        lambda: transport.size("x"),
        lambda: transport.entries("x"),
    ):
        with pytest.raises(CacheError) as failed:
            work()
        assert (failed.value.reason, failed.value.fault) == (expected, fault)
        assert "verysecret" not in str(failed.value)
        assert "127.0.0.1" not in str(failed.value)
    if status != 405:
        assert reason(lambda: read_whole(transport, "x", 10)) == expected


def test_nobody_there_is_a_failure() -> None:
    transport = BucketTransport("s3://cache/x", IMPATIENT, {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    for work in (
        lambda: transport.put("x", b"1"),
        lambda: transport.size("x"),
        lambda: transport.entries("x"),
        lambda: transport.delete("x"),
        lambda: read_whole(transport, "x", 10),
    ):
        assert reason(work) == "cache-unreachable"


def test_a_store_that_does_not_answer_is_given_up(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        exchange.server.closing.wait(10)
        exchange.close_connection = True
        return True

    server.odd = odd
    assert reason(lambda: at(server).size("x")) == "cache-timeout"


META = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"x"'}


def test_a_body_that_stalls_is_given_up(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        exchange.answer(200, {**META, "Content-Length": "1000000"}, b"x" * 100)
        exchange.wfile.flush()
        exchange.server.closing.wait(10)
        exchange.close_connection = True
        return True

    server.odd = odd
    assert reason(lambda: read_whole(at(server), "x", 1 << 21)) in {"cache-timeout", "cache-truncated"}


def test_a_body_that_ends_early_is_refused(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        exchange.answer(200, {**META, "Content-Length": "1000"}, b"x" * 100)
        exchange.close_connection = True
        return True

    server.odd = odd
    assert reason(lambda: read_whole(at(server), "x", 1 << 20)) == "cache-truncated"


def test_a_body_that_drips_is_given_up(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        exchange.answer(200, {**META, "Content-Length": "100000000"}, b"x" * 1000)
        return drip(exchange)

    server.odd = odd
    assert reason(lambda: read_whole(at(server), "x", 1 << 30)) in {"cache-slow", "cache-timeout", "cache-truncated"}


def test_an_object_longer_than_it_may_be_is_not_read_on(server: FileServer) -> None:
    def odd(exchange: Handler) -> bool:
        exchange.answer(200, {**META, "Content-Length": "100000000000"})
        while not exchange.server.closing.is_set():
            exchange.wfile.write(bytes(1 << 16))
        return True

    server.odd = odd
    assert reason(lambda: read_whole(at(server), "x", 1 << 20)) == "cache-too-large"


def test_a_part_of_what_is_not_there_is_missing(transport: BucketTransport) -> None:
    with pytest.raises(CacheError) as failed, transport.open("x", Span(5, 5)):
        pass
    assert failed.value.reason == "cache-missing"


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_the_library_knows_every_variable_that_it_may_be_told(scheme: str) -> None:
    values = {"AWS_ENDPOINT_URL": "https://x.invalid", "GOOGLE_BASE_URL": "https://x.invalid"}
    needed = {"AZURE_STORAGE_ACCOUNT_NAME": "me"} if scheme == "az" else {}
    for name in bucket._VARIABLES[scheme]:
        try:
            BucketTransport(f"{scheme}://bucket/x", environment={**needed, name: values.get(name, "true")})
        except CacheError as error:
            assert "UnknownConfigurationKey" not in repr(error.__cause__)
            assert error.reason == "cache-url"


def test_the_library_gets_what_a_bucket_needs_of_the_environment_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(bucket, "from_url", lambda _url, *, config, **_options: given.append(config))
    environment = {"AWS_REGION": "here", "AWS_PROFILE": "x", "AWS_NONSENSE": "y", "GOOGLE_BUCKET": "z", "PATH": "/bin"}
    BucketTransport("s3://bucket/x", environment=environment)
    assert given == [{"AWS_REGION": "here", "AWS_DISABLE_BULK_DELETE": "true"}]


@pytest.mark.parametrize("url", ["s3://", "s3:", "s3:///x", "gs://", "s3://[x", "s3://a b/x"])
def test_a_url_names_a_bucket(url: str) -> None:
    assert reason(lambda: BucketTransport(url, environment=KEYS)) == "cache-url"


def test_no_secret_is_shown() -> None:
    assert BucketTransport("s3://me:secret@bucket/x?sig=secret", environment=KEYS).place == "s3://bucket/x"


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    settings = HttpSettings(ca_bundle=str(tmp_path / "none.pem"))
    assert reason(lambda: BucketTransport("s3://bucket/x", settings, KEYS)) == "cache-url"
