"""Every transport keeps the same promises: memory, a folder, a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmojo_forge.store.remote.failure import CacheError, Fault
from mmojo_forge.store.remote.folder import FolderTransport
from mmojo_forge.store.remote.memory import MemoryTransport
from mmojo_forge.store.remote.transport import Span, Transport, read_exactly, read_whole
from mmojo_forge.store.remote.web import WebSettings, WebTransport
from tests.caches import reason, serving

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(params=["memory", "folder", "web", "web without ranges"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    if request.param == "memory":
        yield MemoryTransport()
    elif request.param == "folder":
        yield FolderTransport(tmp_path / "cache")
    else:
        with serving(tmp_path) as server:
            server.ignores_ranges = request.param != "web"
            web = WebTransport(server.url, WebSettings(token="secret"))
            yield web
            web.close()


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
    assert (failed.value.reason, failed.value.fault) == ("cache-missing", Fault.MISSING)
    assert transport.entries("trees/ab") == []
    transport.delete("trees/ab/abc")


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


def test_a_folder_lists_what_lies_directly_in_it(transport: Transport) -> None:
    transport.put("names/zig/one", b"1")
    transport.put("names/zig/two", b"22")
    transport.put("names/gcc/three", b"333")
    assert {(one.name, one.size) for one in transport.entries("names/zig")} == {("one", 1), ("two", 2)}
    assert {(one.name, one.is_folder) for one in transport.entries("names")} == {("zig", True), ("gcc", True)}


def test_what_was_deleted_is_gone(transport: Transport) -> None:
    transport.put("packs/ab/abc", CONTENT)
    transport.delete("packs/ab/abc")
    assert transport.size("packs/ab/abc") is None


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
