"""Every transport keeps the same promises: memory, a folder, servers, a bucket, a Bazel cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.transport.bazel import BazelTransport
from mmojo_forge.cache.transport.bucket import BucketTransport
from mmojo_forge.cache.transport.fakes import MemoryTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Span, Transport, read_exactly, read_whole
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_servers import HAS_NGINX, bazel_server, nginx, s3_server
from tests.support.caches import reason, serving

CONTENT = bytes(range(256)) * 1000
LISTING = ["memory", "folder", "web", "web without ranges", "bucket", *(["nginx"] if HAS_NGINX else [])]
PLAIN = ["bazel on a file server", *(["bazel on nginx"] if HAS_NGINX else [])]
STRICT = ["bazel"]
TOKEN = HttpSettings(token="secret")


@pytest.fixture(scope="session")
def s3() -> Iterator[Mapping[str, str]]:
    with s3_server() as environment:
        yield environment


@contextmanager
def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    """An empty cache of that kind."""
    with ExitStack() as stack:
        if kind == "memory":
            transport: Transport = MemoryTransport()
        elif kind == "folder":
            transport = FolderTransport(tmp_path / "cache")
        elif kind == "bucket":
            place = f"s3://cache/{tmp_path.name}"
            transport = BucketTransport(place, environment=request.getfixturevalue("s3"))
        elif kind == "bazel":
            transport = BazelTransport(stack.enter_context(bazel_server()).url)
        elif "nginx" in kind:
            url = stack.enter_context(nginx(tmp_path / "cache", tmp_path / "nginx"))
            transport = BazelTransport(url) if kind.startswith("bazel") else WebTransport(url)
        else:
            server = stack.enter_context(serving(tmp_path))
            server.ignores_ranges = kind == "web without ranges"
            transport = (BazelTransport if kind.startswith("bazel") else WebTransport)(server.url, TOKEN)
        stack.callback(transport.close)
        yield transport


@pytest.fixture(params=[*LISTING, *PLAIN, *STRICT])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    """Every kind."""
    with opened(request.param, request, tmp_path) as one:
        yield one


@pytest.fixture(params=LISTING)
def listing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    """Those that list folders."""
    with opened(request.param, request, tmp_path) as one:
        yield one


@pytest.fixture(params=[*LISTING, *PLAIN])
def deleting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    """Those that delete."""
    with opened(request.param, request, tmp_path) as one:
        yield one


@pytest.fixture(params=[*PLAIN, *STRICT])
def bazel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    """Those that speak Bazel's protocol."""
    with opened(request.param, request, tmp_path) as one:
        yield one


def read(transport: Transport, path: str, span: Span) -> bytes:
    with transport.open(path, span) as body:
        parts = []
        while part := body.read(1000):
            parts.append(part)
        return b"".join(parts)


def test_what_was_put_is_there_whole_and_in_parts(transport: Transport) -> None:
    assert transport.put("packs/ab/abc", CONTENT)
    assert transport.size("packs/ab/abc") == len(CONTENT)
    assert read_whole(transport, "packs/ab/abc", len(CONTENT)) == CONTENT
    assert read(transport, "packs/ab/abc", Span(1000, 5000)) == CONTENT[1000:6000]
    assert read(transport, "packs/ab/abc", Span(len(CONTENT) - 10, 5000)) == CONTENT[-10:]


def test_a_part_that_ends_beyond_the_end_is_too_short(transport: Transport) -> None:
    transport.put("packs/ab/abc", CONTENT)
    with transport.open("packs/ab/abc", Span(len(CONTENT) - 5, 10)) as body, pytest.raises(CacheError) as failed:
        read_exactly(body, transport.place, "packs/ab/abc", 10)
    assert failed.value.reason == "cache-truncated"


def test_a_part_beyond_the_end_is_too_short(transport: Transport) -> None:
    transport.put("packs/ab/abc", CONTENT)
    with pytest.raises(CacheError) as failed, transport.open("packs/ab/abc", Span(len(CONTENT) + 5, 10)) as body:
        read_exactly(body, transport.place, "packs/ab/abc", 10)
    assert failed.value.reason == "cache-truncated"


def test_what_is_not_there_is_missing(transport: Transport) -> None:
    assert transport.size("trees/ab/abc") is None
    with pytest.raises(CacheError) as failed:
        read_whole(transport, "trees/ab/abc", 100)
    assert (failed.value.reason, failed.value.fault) == ("cache-missing", CacheFault.MISSING)


def test_what_is_not_there_is_not_listed_and_can_be_deleted(listing: Transport) -> None:
    assert listing.entries("trees/ab") == []
    listing.delete("trees/ab/abc")


def test_what_is_there_is_replaced_only_where_that_is_meant(transport: Transport) -> None:
    assert transport.put("index/one", b"first")
    assert not transport.put("index/one", b"second")
    assert read_whole(transport, "index/one", 100) == b"first"
    assert transport.put("index/one", b"third", if_absent=False)
    assert read_whole(transport, "index/one", 100) == b"third"


def test_an_empty_object_is_one(transport: Transport) -> None:
    assert transport.put("names/thing/one", b"")
    assert transport.size("names/thing/one") == 0
    assert read_whole(transport, "names/thing/one", 0) == b""


def test_a_folder_lists_what_lies_directly_in_it(listing: Transport) -> None:
    listing.put("names/zig/one", b"1")
    listing.put("names/zig/two+2.0_a-b", b"22")
    listing.put("names/gcc/three", b"333")
    listing.put("names/gcc+/four", b"4444")
    assert {(one.name, one.size) for one in listing.entries("names/zig")} == {("one", 1), ("two+2.0_a-b", 2)}
    expected = {("zig", True), ("gcc", True), ("gcc+", True)}
    assert {(one.name, one.is_folder) for one in listing.entries("names")} == expected
    assert [one.name for one in listing.entries("names/gcc")] == ["three"]
    assert read_whole(listing, "names/gcc+/four", 10) == b"4444"


def test_what_was_written_later_is_listed_as_no_older(listing: Transport) -> None:
    listing.put("index/ab/one", b"1")
    listing.put("index/ab/two", b"2")
    listing.put("index/ab/one", b"3", if_absent=False)
    times = {one.name: one.modified for one in listing.entries("index/ab")}
    assert times["one"] >= times["two"] > 0


def test_bazels_protocol_has_no_listing(bazel: Transport) -> None:
    bazel.put("names/zig/one", b"1")
    assert reason(lambda: bazel.entries("names/zig")) == "cache-no-listing"


def test_what_was_deleted_is_gone(deleting: Transport) -> None:
    deleting.put("packs/ab/abc", CONTENT)
    deleting.delete("packs/ab/abc")
    assert deleting.size("packs/ab/abc") is None
    assert reason(lambda: read_whole(deleting, "packs/ab/abc", 10)) == "cache-missing"
    assert deleting.put("packs/ab/abc", CONTENT)


def test_many_may_write_at_once(transport: Transport) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: transport.put(f"packs/ab/{at % 8}", CONTENT[: at % 8 * 1000 + 1]), range(32)))
        sizes = list(pool.map(lambda at: transport.size(f"packs/ab/{at}"), range(8)))
    assert sizes == [at * 1000 + 1 for at in range(8)]


def test_an_object_longer_than_it_may_be_is_not_read_on(transport: Transport) -> None:
    transport.put("packs/ab/abc", CONTENT)
    assert reason(lambda: read_whole(transport, "packs/ab/abc", len(CONTENT) - 1)) == "cache-too-large"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../b", "a//b", ".hidden", "a/.x", "a\0b", "a?b", "a%2e"]
)
def test_a_path_is_plain_names(transport: Transport, path: str) -> None:
    assert reason(lambda: transport.put(path, b"")) == "cache-path"
    assert reason(lambda: transport.size(path)) == "cache-path"
    assert reason(lambda: transport.delete(path)) == "cache-path"
    assert reason(lambda: transport.entries(path)) == "cache-path"
    assert reason(lambda: read_whole(transport, path, 1)) == "cache-path"
