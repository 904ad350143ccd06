"""A cache in a Bazel cache: the whole layout on top of it, evictions, and servers that lie."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.bazel import BazelTransport
from mmojo_forge.cache.transport.protocol import Span, read_whole
from mmojo_forge.cache.write.writer import CacheWriter, PushMode
from mmojo_forge.model.digest import DerivationId
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_servers import BazelServer, bazel_server
from tests.support.caches import ALICE, Files, Handler, drip, reason, serving, trace_of
from tests.unit.engine.cache.test_push import fetched

ROOT = DerivationId("d" * 64)
FILES = Files({"a": b"one", "b*": b"two" * 500, "big": random.Random(3).randbytes(400_000), "empty": b""})


@pytest.fixture
def server() -> Iterator[BazelServer]:
    with bazel_server() as one:
        yield one


@pytest.fixture
def transport(server: BazelServer) -> Iterator[BazelTransport]:
    one = BazelTransport(server.url)
    yield one
    one.close()


def result_of(path: str) -> str:
    """Where Bazel's protocol has an object: golden, since caches outlive us."""
    return sha256(b"mmojo-forge cache 1\n" + path.encode()).hexdigest()


def test_the_layout_on_the_server_is_what_the_docstring_says(server: BazelServer, transport: BazelTransport) -> None:
    transport.put("names/thing/x", b"content")
    name = result_of("names/thing/x")
    blob = sha256(b"content").hexdigest()
    assert server.blobs == {blob: b"content"}
    assert server.results[name]["outputFiles"] == [
        {"path": "names/thing/x", "digest": {"hash": blob, "sizeBytes": "7"}}
    ]
    assert [(method, path.rpartition("/instance")[2]) for method, path in server.asked] == [
        ("GET", f"/ac/{name}"),
        ("PUT", f"/cas/{blob}"),
        ("PUT", f"/ac/{name}"),
    ]
    assert result_of("cache-info.json") == "a2ed9a56a7894d7f08b604ae22f643dbde4dd518ca57cd5ba3d8b5cef9189b66"


def test_a_whole_cache_is_pushed_and_fetched(transport: BazelTransport, tmp_path: Path) -> None:
    trace = trace_of(output=FILES.tree.id, size=FILES.tree.size)
    writer = CacheWriter(transport)
    writer.ensure_info(CacheInfo())
    assert writer.push([FILES.item], [trace], {ROOT: [trace]}, signer=ALICE.public).trees == 1
    assert writer.push([FILES.item], [trace], {ROOT: [trace]}, signer=ALICE.public).trees_known == 1
    reader = CacheReader(transport, [ALICE.public])
    assert reader.info() == CacheInfo()
    assert set(reader.fetch_index([ROOT]).traces) == {trace.key}
    assert set(reader.fetch_traces([trace.key]).traces) == {trace.key}
    fetched(transport, FILES, tmp_path / "partial")


def test_an_object_is_there_only_while_its_blob_is(server: BazelServer, transport: BazelTransport) -> None:
    """Bazel's issue 8250: servers evict blobs, and keep results that name them."""
    transport.put("packs/ab/x", b"content")
    result = dict(server.results)
    blob = server.blobs.pop(sha256(b"content").hexdigest())
    assert transport.size("packs/ab/x") is None
    with pytest.raises(CacheError) as failed, transport.open("packs/ab/x", Span(0, 3)):
        pass
    assert failed.value.reason == "cache-missing"
    assert transport.put("packs/ab/x", blob)
    assert (transport.size("packs/ab/x"), set(server.results)) == (7, set(result))


def test_an_object_whose_result_was_evicted_is_not_there(server: BazelServer, transport: BazelTransport) -> None:
    transport.put("packs/ab/x", b"content")
    server.results.clear()
    assert transport.size("packs/ab/x") is None
    assert transport.put("packs/ab/x", b"content")


def test_evicted_packs_are_pushed_again(server: BazelServer, transport: BazelTransport, tmp_path: Path) -> None:
    CacheWriter(transport, pack_bytes=150_000).push([FILES.item])
    large = [name for name, content in server.blobs.items() if len(content) > 50_000]
    for name in large[::2]:
        del server.blobs[name]
    assert reason(lambda: fetched(transport, FILES, tmp_path / "a")) == "cache-missing"
    assert CacheWriter(transport).push([FILES.item], mode=PushMode.THOROUGH).trees == 1
    fetched(transport, FILES, tmp_path / "b")


def test_parts_of_one_object_ask_for_its_result_once(server: BazelServer, transport: BazelTransport) -> None:
    transport.put("packs/ab/x", bytes(range(200)))
    server.asked.clear()
    for start in range(0, 200, 50):
        with transport.open("packs/ab/x", Span(start, 50)) as body:
            assert body.read(50) == bytes(range(start, start + 50))
    assert [path.rpartition("/instance/")[2].partition("/")[0] for _, path in server.asked] == ["ac", *["cas"] * 4]


def test_an_object_that_was_replaced_is_read_anew(server: BazelServer, transport: BazelTransport) -> None:
    other = BazelTransport(server.url)
    transport.put("index/x", b"old")
    with transport.open("index/x", Span(0, 3)) as body:
        assert body.read(3) == b"old"
    other.put("index/x", b"new", if_absent=False)
    assert read_whole(transport, "index/x", 10) == b"new"
    with transport.open("index/x", Span(0, 3)) as body:
        assert body.read(3) == b"new"
    other.close()


def test_nothing_can_be_deleted_where_the_server_does_not_know_that(transport: BazelTransport) -> None:
    transport.put("packs/ab/x", b"content")
    with pytest.raises(CacheError) as failed:
        transport.delete("packs/ab/x")
    assert (failed.value.reason, failed.value.fault) == ("cache-read-only", CacheFault.REFUSING)


@pytest.mark.parametrize(
    "result",
    [
        b"", b"[]", b"null", b"\x12\x00\xff", b"[" * 10_000, b"{}", b'{"outputFiles":[]}', b'{"outputFiles":[[]]}',
        b'{"outputFiles":[{"path":"x","digest":{"hash":"0","sizeBytes":"1"}}]}',
        b'{"outputFiles":[{"path":"y","digest":{"hash":"%b","sizeBytes":"1"}}]}' % (b"0" * 64),
        b'{"outputFiles":[{"path":"x","digest":{"hash":"%b","sizeBytes":"-1"}}]}' % (b"0" * 64),
        b'{"outputFiles":[{"path":"x","digest":{"hash":"%b","sizeBytes":"%b"}}]}' % (b"0" * 64, b"1" * 9000),
        b'{"outputFiles":[{"path":"x","digest":[]}]}', b" " * 100_000,
    ],
)  # fmt: skip
def test_a_result_that_is_not_ours_is_refused(result: bytes, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        (tmp_path / "ac").mkdir()
        (tmp_path / "ac" / result_of("x")).write_bytes(result)
        transport = BazelTransport(server.url, HttpSettings(token="secret"))
        found = reason(lambda: read_whole(transport, "x", 100))
        assert found in {"cache-malformed", "cache-too-large"}
        assert transport.put("x", b"anew", if_absent=False)
        assert read_whole(transport, "x", 100) == b"anew"
        transport.close()


def test_a_blob_that_is_another_is_refused_when_it_is_read_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        transport = BazelTransport(server.url, HttpSettings(token="secret"))
        transport.put("x", b"content")
        for other in (b"CONTENT", b"", b"content and more", b"conten"):
            (tmp_path / "cas" / sha256(b"content").hexdigest()).write_bytes(other)
            assert reason(lambda: read_whole(transport, "x", 100)) == "blob-mismatch"
        transport.close()


def test_a_server_that_drips_is_given_up(tmp_path: Path) -> None:
    def odd(exchange: Handler) -> bool:
        return exchange.path.startswith("/cas/") and drip(exchange)

    with serving(tmp_path) as server:
        transport = BazelTransport(server.url, HttpSettings(token="secret", grace_seconds=0.3, least_rate=1e5))
        transport.put("x", b"content")
        server.odd = odd
        assert reason(lambda: read_whole(transport, "x", 1 << 20)) == "cache-slow"
        transport.close()


def test_nobody_there_is_a_failure() -> None:
    transport = BazelTransport("bazel+http://127.0.0.1:1")
    for work in (lambda: transport.size("x"), lambda: transport.put("x", b""), lambda: read_whole(transport, "x", 1)):
        assert reason(work) == "cache-unreachable"


def test_results_are_small_json(server: BazelServer, transport: BazelTransport) -> None:
    transport.put(layout.pack_path("0" * 64), b"x" * 1000)
    assert len(json.dumps(server.results)) < 500
