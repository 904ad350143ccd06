"""Pushing to a cache and fetching from it: the same trees come back, little travels twice, deaths leave no lies."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmojo_forge.cache.failure import CacheError
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import SMALL
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.read.transfer import Options
from mmojo_forge.cache.transport.fakes import FaultyTransport, MemoryTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Body, Span, Transport, read_whole
from mmojo_forge.cache.write.chunk_writer import PushItem
from mmojo_forge.cache.write.writer import CacheWriter, PushMode
from mmojo_forge.model.digest import BlobDigest, DerivationId, TreeId, blake3_hex
from mmojo_forge.model.tree import Tree, TreeEntry
from tests.support.caches import ALICE, BOB, CheckingSink, Files, reason, trace_of

ROOT = DerivationId("d" * 64)
PATIENT = Options(connections=3, sleep=lambda _: None)

names = st.text("abcé ", min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
sizes = st.sampled_from([0, 1, 100, 5000, SMALL - 1, SMALL, 300_000])


class Counting:
    """A transport that counts the bytes of packs that are read."""

    def __init__(self, behind: Transport) -> None:
        self.behind = behind
        self.place = behind.place
        self.put, self.size, self.entries = behind.put, behind.size, behind.entries
        self.delete, self.close = behind.delete, behind.close
        self.arrived = 0

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        with self.behind.open(path, span) as body:
            yield _CountedBody(self, body) if path.startswith("packs/") else body


class _CountedBody:
    def __init__(self, counting: Counting, body: Body) -> None:
        self._counting = counting
        self._body = body

    def read(self, count: int, /) -> bytes:
        part = self._body.read(count)
        self._counting.arrived += len(part)
        return part


@st.composite
def trees(draw: st.DrawFn) -> Files:
    """Trees with files of all sizes, some of them twice, some executable."""
    content: dict[str, bytes] = {}
    for path in draw(st.lists(paths, max_size=8, unique=True)):
        inside_a_file = any(path.startswith(f"{other.rstrip('*')}/") for other in content)
        if not inside_a_file and not any(other.startswith(f"{path}/") for other in content):
            data = random.Random(draw(st.integers(0, 5))).randbytes(draw(sizes))
            content[path + draw(st.sampled_from(["", "*"]))] = data
    return Files(content)


def fetched(transport: Transport, files: Files, partial: Path, options: Options = PATIENT) -> CheckingSink:
    sink = CheckingSink()
    tree = CacheReader(transport, (), options).fetch_tree(files.tree.id, sink, partial, size=files.tree.size)
    assert tree == files.tree
    assert sink.has_all_of(tree)
    assert not partial.exists()
    return sink


def bulk(seed: int, count: int = 600) -> dict[str, bytes]:
    """A tree of some megabytes: many small files that compress, a few large ones that do not."""
    chance = random.Random(seed)
    words = [chance.randbytes(6).hex().encode() for _ in range(2000)]
    small = {
        f"lib/{at % 7}/{at:05}.h": b" ".join(chance.choices(words, k=chance.randrange(5, 800))) for at in range(count)
    }
    return {**small, **{f"bin/{at}*": chance.randbytes(700_000) for at in range(4)}}


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=trees())
def test_what_is_pushed_can_be_fetched(files: Files, tmp_path: Path) -> None:
    transport = MemoryTransport()
    CacheWriter(transport).push([files.item])
    fetched(transport, files, tmp_path / "partial")


def test_a_tree_that_is_one_file_is_a_tree(tmp_path: Path) -> None:
    files = Files({"": random.Random(1).randbytes(500_000)})
    tree = Tree.of_file(BlobDigest(blake3_hex(files.content[""])), 500_000)
    transport = FolderTransport(tmp_path / "cache")
    CacheWriter(transport).push([PushItem(tree, "mmojo-server.ape", files.open)])
    sink = CheckingSink()
    CacheReader(transport, ()).fetch_tree(tree.id, sink, tmp_path / "partial")
    assert sink.has_all_of(tree)


def test_packs_are_few_and_small_and_the_same_each_time() -> None:
    files = Files(bulk(1))
    first, second = MemoryTransport(), MemoryTransport()
    for transport in (first, second):
        CacheWriter(transport, connections=3, threads=2, pack_bytes=1 << 20).push([files.item])
    assert first.objects == second.objects
    packs = [len(content) for path, content in first.objects.items() if path.startswith("packs/")]
    assert max(packs) <= 1 << 20
    assert len(packs) <= 6


def test_trees_pushed_together_share_packs(tmp_path: Path) -> None:
    transport = MemoryTransport()
    several = [Files({f"file{at}": f"{at}".encode() * 100}, name=f"tree{at}") for at in range(30)]
    CacheWriter(transport).push([files.item for files in several])
    assert sum(path.startswith("packs/") for path in transport.objects) == 1
    for files in several:
        fetched(transport, files, tmp_path / "partial")


def test_a_second_push_sends_and_reads_nothing() -> None:
    files = Files(bulk(1, 50))
    transport = MemoryTransport()
    assert CacheWriter(transport).push([files.item]).trees == 1
    files.opened.clear()
    done = CacheWriter(transport).push([files.item])
    assert (done.trees, done.trees_known, done.sent_bytes, files.opened) == (0, 1, 0, [])


@pytest.mark.parametrize("seeded", [False, True])
def test_another_version_transfers_what_changed(tmp_path: Path, seeded: bool) -> None:
    transport = MemoryTransport()
    old = Files(bulk(1), name="zig-0.15.1")
    first = CacheWriter(transport).push([old.item])
    changed = dict(bulk(1))
    for path in sorted(changed)[100:120]:
        changed[path] = b"// changed\n" + changed[path]
    changed["bin/2*"] = changed["bin/2*"][:300_000] + b"a few new bytes" + changed["bin/2*"][300_000:]
    new = Files({**changed, "lib/added.h": b"new"}, name="zig-0.15.2")
    done = CacheWriter(transport).push([new.item])
    assert done.sent_bytes < first.sent_bytes / 5
    assert done.reused_bytes > done.content_bytes * 0.8
    assert len(new.opened) < 100

    counted = Counting(transport)
    reader = CacheReader(counted, ())
    sink = CheckingSink(has={file.digest for file in old.tree.files() if file.digest})
    unknown = Files({"never": b"pushed"}).tree
    known = reader.seed_of([unknown, old.tree], old.read_at).content if seeded else None
    reader.fetch_tree(new.tree.id, sink, tmp_path / "partial", known=known)
    assert sink.has_all_of(new.tree)
    assert counted.arrived < first.sent_bytes / (5 if seeded else 3)


def test_a_seed_that_is_not_what_it_was_is_not_used(tmp_path: Path) -> None:
    transport = MemoryTransport()
    files = Files(bulk(1, 20))
    CacheWriter(transport).push([files.item])
    reader = CacheReader(transport, ())
    rotten = Files({path: data[:-1] + b"?" for path, data in files.content.items()})
    sink = CheckingSink()
    known = reader.seed_of([files.tree], rotten.read_at).content
    reader.fetch_tree(files.tree.id, sink, tmp_path / "partial", known=known)
    assert sink.has_all_of(files.tree)


def test_only_what_the_sink_lacks_travels(tmp_path: Path) -> None:
    transport = MemoryTransport()
    files = Files(bulk(1))
    CacheWriter(transport).push([files.item])
    counted = Counting(transport)
    one = next(file for file in files.tree.files() if file.path == "lib/3/00003.h")
    sink = CheckingSink(has={file.digest for file in files.tree.files() if file.digest} - {one.digest})
    CacheReader(counted, ()).fetch_tree(files.tree.id, sink, tmp_path / "partial")
    assert list(sink.got) == [one.digest]
    assert counted.arrived < 100_000


def test_content_that_is_not_what_its_tree_says_is_not_pushed() -> None:
    for path in ("lib/0/00000.h", "bin/0*"):
        files = Files(bulk(1, 20))
        item = files.item
        for other in (b"", files.content[path] + b"!", b"?" + files.content[path][1:]):
            files.content = {**bulk(1, 20), path: other}
            transport = MemoryTransport()
            assert reason(lambda item=item, to=transport: CacheWriter(to).push([item])) == "push-mismatch"  # type: ignore[misc]
            assert not any(name.startswith(("maps/", "trees/")) for name in transport.objects)


def check_whole(transport: MemoryTransport, several: list[Files], partial: Path) -> None:
    """Everything that is referred to is there."""
    reader = CacheReader(transport, [ALICE.public], PATIENT)
    by_id = {files.tree.id: files for files in several}
    for path in list(transport.objects):
        kind, _, name = path.partition("/")
        identifier = TreeId(name.rpartition("/")[2].removesuffix(".zst"))
        if kind in {"maps", "names"}:
            fetched(transport, by_id[identifier], partial)
        if kind in {"traces", "index"}:
            outputs = [
                output.tree
                for trace in reader.fetch_index([ROOT]).traces.values()
                for output in trace[0].outputs.values()
            ]
            assert set(outputs) <= reader.has_trees(outputs)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.integers(0, 60))
def test_a_push_that_dies_leaves_nothing_that_leads_nowhere(operations: int, tmp_path: Path) -> None:
    several = [Files(bulk(seed, 30), name=f"thing-{seed}") for seed in range(3)]
    traces = [trace_of(files.name, output=files.tree.id, size=files.tree.size) for files in several]
    behind = MemoryTransport()
    dying = FaultyTransport(behind, operations=operations)
    writer = CacheWriter(dying, connections=2, pack_bytes=500_000)

    def push() -> None:
        writer.push([files.item for files in several], traces, {ROOT: traces}, signer=ALICE.public)

    try:
        push()
    except CacheError as error:
        assert error.reason == "cache-unreachable"
    check_whole(behind, several, tmp_path / "partial")
    dying.revive()
    push()
    check_whole(behind, several, tmp_path / "partial")
    assert len(CacheReader(behind, [ALICE.public]).has_trees(files.tree.id for files in several)) == 3


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.integers(0, 12))
def test_a_fetch_that_dies_goes_on_where_it_was(operations: int, tmp_path: Path) -> None:
    files = Files(bulk(2, 60))
    behind = MemoryTransport()
    CacheWriter(behind, pack_bytes=400_000).push([files.item])
    dying = FaultyTransport(behind, operations=operations)
    counted = Counting(dying)
    options = Options(connections=2, attempts=1)
    reader = CacheReader(counted, (), options)
    partial = tmp_path / "partial"
    try:
        reader.fetch_tree(files.tree.id, CheckingSink(), partial)
    except CacheError as error:
        assert error.reason == "cache-unreachable"
    else:
        return
    dying.revive()
    fetched(dying, files, partial, options)
    total = sum(len(content) for path, content in behind.objects.items() if path.startswith("packs/"))
    # Only what the two connections were reading comes again.
    assert counted.arrived <= total + 2 * 400_000


def test_what_a_killed_fetch_left_is_used_as_far_as_it_is_right(tmp_path: Path) -> None:
    files = Files(bulk(2, 60))
    transport = FaultyTransport(MemoryTransport())
    CacheWriter(transport, pack_bytes=400_000).push([files.item])
    reader = CacheReader(transport, (), Options(connections=1, attempts=1))

    class Full(CheckingSink):
        def take_file(self, file: TreeEntry, path: Path) -> None:
            raise CacheError("full", reason="full", fault=None)  # type: ignore[arg-type]

    partial = tmp_path / "partial"
    assert reason(lambda: reader.fetch_tree(files.tree.id, Full(), partial)) == "full"
    spools = list(partial.iterdir())
    assert [spool.suffix for spool in spools] == [".spool"]
    kept = spools[0].read_bytes()
    for damaged in (kept[:-7], b"?" * len(kept), kept[:50] + b"?" * 30 + kept[80:], b""):
        partial.mkdir(exist_ok=True)
        (partial / "0.spool").write_bytes(damaged)
        fetched(transport, files, partial)


def test_a_half_emptied_cache_is_made_whole_by_a_thorough_push(tmp_path: Path) -> None:
    files = Files(bulk(3, 100))
    transport = MemoryTransport()
    CacheWriter(transport, pack_bytes=500_000).push([files.item])
    for path in [path for path in transport.objects if path.startswith("packs/")][::2]:
        transport.delete(path)
    assert reason(lambda: fetched(transport, files, tmp_path / "partial")) == "cache-missing"
    assert CacheWriter(transport).push([files.item]).trees == 0
    assert CacheWriter(transport).push([files.item], mode=PushMode.THOROUGH).trees == 1
    fetched(transport, files, tmp_path / "other")


def test_a_cache_that_has_rotted_is_made_whole_by_a_push_anew(tmp_path: Path) -> None:
    files = Files(bulk(3, 100))
    transport = MemoryTransport()
    CacheWriter(transport).push([files.item])
    for path, content in list(transport.objects.items()):
        transport.objects[path] = bytes(len(content))
    assert CacheWriter(transport).push([files.item], mode=PushMode.OVERWRITE).trees == 1
    fetched(transport, files, tmp_path / "partial")


def test_many_push_the_same_at_once(tmp_path: Path) -> None:
    several = [Files(bulk(seed, 40), name=f"thing-{seed}") for seed in range(3)]
    transport = FolderTransport(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: CacheWriter(transport).push([files.item for files in several]), range(4)))
    for files in several:
        fetched(transport, files, tmp_path / "partial")
    assert not list((tmp_path / "cache" / ".incoming").iterdir())


class TestTraces:
    def test_they_come_back_by_key_and_by_root(self) -> None:
        transport = MemoryTransport()
        both, one = trace_of("both", by=[ALICE, BOB]), trace_of("one")
        done = CacheWriter(transport).push([], [both, one], {ROOT: [both, one]}, signer=ALICE.public)
        assert done.traces == 3
        reader = CacheReader(transport, [ALICE.public, BOB.public])
        assert reader.fetch_index([ROOT]).traces == {both.key: (both,), one.key: (one,)}
        found = reader.fetch_traces([both.key, one.key, trace_of("none").key])
        signers = {key: {one.signatures[0].key for one in several} for key, several in found.traces.items()}
        assert signers == {both.key: {str(ALICE.public), str(BOB.public)}, one.key: {str(ALICE.public)}}
        assert not found.errors

    def test_an_index_is_one_request_for_each_signer(self) -> None:
        transport = FaultyTransport(MemoryTransport())
        CacheWriter(transport).push([], [], {ROOT: [trace_of(f"t{at}") for at in range(200)]}, signer=ALICE.public)
        transport.asked.clear()
        assert len(CacheReader(transport, [ALICE.public]).fetch_index([ROOT]).traces) == 200
        assert len(transport.asked) == 1

    def test_what_two_builders_claim_differently_is_all_told(self) -> None:
        transport = MemoryTransport()
        for key, output in ((ALICE, "1"), (BOB, "2")):
            CacheWriter(transport).push([], [trace_of(by=[key], output=output)])
        found = CacheReader(transport, [ALICE.public, BOB.public]).fetch_traces([trace_of().key])
        assert len({trace.outputs["out"].tree for trace in found.traces[trace_of().key]}) == 2

    def test_an_index_keeps_what_its_writer_said_before(self) -> None:
        transport = MemoryTransport()
        first, second = trace_of("first"), trace_of("second")
        for trace in (first, second):
            CacheWriter(transport).push([], [], {ROOT: [trace]}, signer=ALICE.public)
        CacheWriter(transport).push([], [], {ROOT: [trace_of("other", by=[BOB])]}, signer=BOB.public)
        assert set(CacheReader(transport, [ALICE.public]).fetch_index([ROOT]).traces) == {first.key, second.key}

    def test_an_index_that_nobody_signs_for_is_not_written(self) -> None:
        assert reason(lambda: CacheWriter(MemoryTransport()).push([], [], {ROOT: []})) == "push-unsigned"

    def test_a_claim_is_never_replaced(self) -> None:
        transport = MemoryTransport()
        assert CacheWriter(transport).push([], [trace_of(output="1")]).traces == 1
        before = dict(transport.objects)
        assert CacheWriter(transport).push([], [trace_of(output="2")]).traces == 0
        assert transport.objects == before


def test_memory_stays_the_same_whatever_is_pushed_and_fetched(tmp_path: Path) -> None:
    """96 MiB that do not compress, through a push and a fetch, in less than 64 MiB more than before."""
    block = random.Random(5).randbytes(1 << 20)

    class Stream:
        def __init__(self) -> None:
            self.at = 0

        def read(self, count: int) -> bytes:
            number, offset = divmod(self.at, 1 << 20)
            if number == 96:
                return b""
            shift = number * 4099
            part = (block[shift:] + block[:shift])[offset : offset + count]
            part = bytes([number]) + part[1:] if not offset else part
            self.at += len(part)
            return part

    @contextmanager
    def open_blob(_: TreeEntry) -> Iterator[BinaryIO]:
        yield Stream()  # type: ignore[misc]

    class Discard(CheckingSink):
        def take_file(self, file: TreeEntry, path: Path) -> None:
            assert path.stat().st_size == 96 << 20

    hasher, stream = blake3(), Stream()
    while part := stream.read(1 << 20):
        hasher.update(part)
    tree = Tree.of_file(BlobDigest(hasher.hexdigest()), 96 << 20)
    transport = FolderTransport(tmp_path / "cache")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    CacheWriter(transport).push([PushItem(tree, "large", open_blob)])
    CacheReader(transport, ()).fetch_tree(tree.id, Discard(), tmp_path / "partial")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_the_layout_is_what_the_readme_says(tmp_path: Path) -> None:
    transport = FolderTransport(tmp_path)
    files = Files({"a": b"1"}, name="thing-1.0")
    trace = trace_of()
    CacheWriter(transport).push([files.item], [trace], {ROOT: [trace]}, signer=ALICE.public)
    signer = layout.signer_id(ALICE.public)
    tree = files.tree.id
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    packs = {path for path in found if path.startswith("packs/")}
    assert found - packs == {
        f"trees/{tree[:2]}/{tree}.zst",
        f"maps/{tree[:2]}/{tree}.zst",
        f"names/thing/{tree}",
        f"traces/{trace.key[:2]}/{trace.key}.{signer}.json",
        f"index/{ROOT[:2]}/{ROOT}.{signer}.zst",
    }
    (pack,) = packs
    assert pack.endswith(blake3_hex(read_whole(transport, pack, 1000)))
