"""A cache behind a real nginx: written through its DAV module or by whoever fills the folder, read, listed, collected.

tests/conformance has what nginx does with single objects.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.gc.collect import collect, plan_collection
from mmojo_forge.cache.gc.inventory import CacheFileKind
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.transport.bazel import BazelTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.cache.write.writer import CacheWriter, Pushed
from mmojo_forge.model.digest import DerivationId
from tests.support.cache_servers import HAS_NGINX, nginx
from tests.support.caches import ALICE, CheckingSink, Files, reason, trace_of
from tests.unit.engine.cache.test_push import bulk, fetched

pytestmark = pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed: apt-get install nginx-light")

ROOT = DerivationId("d" * 64)
FILES = Files(bulk(1), name="zig-0.15.1")
TRACE = trace_of(FILES.name, output=FILES.tree.id, size=FILES.tree.size)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with nginx(tmp_path / "cache", tmp_path / "nginx") as one:
        yield one


def pushed(transport: Transport, files: Files = FILES) -> Pushed:
    writer = CacheWriter(transport)
    writer.ensure_info(CacheInfo((ALICE.public,)))
    trace = trace_of(files.name, output=files.tree.id, size=files.tree.size)
    return writer.push([files.item], [trace], {ROOT: [trace]}, signer=ALICE.public)


def check_readable(transport: Transport, partial: Path) -> None:
    reader = CacheReader(transport, [ALICE.public])
    assert reader.info().keys == (ALICE.public,)
    assert set(reader.fetch_index([ROOT]).traces) == {TRACE.key}
    assert set(reader.fetch_traces([TRACE.key]).traces) == {TRACE.key}
    fetched(transport, FILES, partial)


def next_version() -> Files:
    changed = bulk(1)
    changed["lib/0/00000.h"] = random.Random(9).randbytes(20_000)
    return Files(changed, name="zig-0.15.2")


def test_nginx_serves_a_folder_that_somebody_else_fills(tmp_path: Path) -> None:
    pushed(FolderTransport(tmp_path / "cache"))
    with nginx(tmp_path / "cache", tmp_path / "nginx", writable=False) as url:
        transport = WebTransport(url)
        check_readable(transport, tmp_path / "partial")
        assert {one.name for one in transport.entries("names/zig")} == {FILES.tree.id}
        for write in (lambda: transport.put("packs/x", b"1"), lambda: transport.delete("packs/x")):
            assert reason(write) == "cache-read-only"
        transport.close()


def test_a_cache_is_pushed_through_nginx_and_another_version_sends_little(url: str, tmp_path: Path) -> None:
    transport = WebTransport(url)
    first = pushed(transport)
    assert (first.trees, first.traces) == (1, 1)
    check_readable(transport, tmp_path / "partial")
    again = pushed(transport)
    assert (again.trees, again.trees_known, again.traces) == (0, 1, 0)
    # The index is written anew by each push; a tree is not.
    assert again.sent_bytes < 2000
    second = pushed(transport, next_version())
    assert second.sent_bytes < first.sent_bytes / 10
    assert second.reused_bytes > second.content_bytes * 0.9
    fetched(transport, next_version(), tmp_path / "partial")
    transport.close()


def test_nginx_is_a_bazel_cache(url: str, tmp_path: Path) -> None:
    transport = BazelTransport(url)
    assert pushed(transport).trees == 1
    assert pushed(transport).trees_known == 1
    check_readable(transport, tmp_path / "partial")
    assert sorted(os.listdir(tmp_path / "cache")) == ["ac", "cas"]
    transport.close()


def test_a_cache_behind_nginx_is_collected(url: str, tmp_path: Path) -> None:
    transport = WebTransport(url)
    pushed(transport)
    long_ago = time.time() - 40 * 86400
    for path in (tmp_path / "cache").rglob("*"):
        os.utime(path, (long_ago, long_ago))
    kept = Files({"a": b"kept"}, name="kept-1.0")
    CacheWriter(transport).push([kept.item])
    planned = plan_collection(transport, time.time(), 30 * 86400, grace=0.0)
    done = collect(transport, planned)
    assert not done.spared
    assert done.total == planned.total > 0
    assert {kind: len(several) for kind, several in done.removed.items()} == {
        kind: planned.counts[kind]
        - (1 if kind in {CacheFileKind.NAME, CacheFileKind.MAP, CacheFileKind.MANIFEST, CacheFileKind.PACK} else 0)
        for kind in CacheFileKind
    }
    fetched(transport, kept, tmp_path / "partial")
    sink = CheckingSink()
    missing = reason(lambda: CacheReader(transport, ()).fetch_tree(FILES.tree.id, sink, tmp_path / "p"))
    assert missing == "cache-missing"
    transport.close()
