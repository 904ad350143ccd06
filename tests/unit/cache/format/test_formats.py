"""The formats of a cache: frames, cuts, maps, entries, what a cache says about itself; and the circuit breaker."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.cache.format import layout, treemap
from mmojo_forge.cache.format.chunks import (
    CHUNK_LEAST,
    CHUNK_MOST,
    SMALL,
    Codec,
    chunks,
    groups,
    layout_of,
    longest_frame,
)
from mmojo_forge.cache.format.index import TraceChecker
from mmojo_forge.cache.format.info import CacheInfo, read_info
from mmojo_forge.cache.format.treemap import Chunk, Group, Large, TreeMap
from mmojo_forge.cache.transport.fakes import MemoryTransport
from mmojo_forge.engine.cache.substituter import Breaker
from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import ActionKey, BlobDigest, blake3_hex
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry, TreeError
from tests.support.caches import ALICE, BOB, MALLORY, Files, reason, signed, trace_of

CODEC = Codec()


class TestFrames:
    @given(st.binary(max_size=5000))
    def test_content_comes_back(self, content: bytes) -> None:
        frame = CODEC.compress(content)
        assert len(frame) <= longest_frame(len(content))
        assert CODEC.unpack(frame, len(content), "", "") == content
        assert CODEC.unpack_at_most(frame, len(content), "", "") == content

    def test_a_bomb_is_refused_by_its_header(self) -> None:
        bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
        assert reason(lambda: CODEC.unpack(bomb, 1000, "", "")) == "cache-frame"
        assert reason(lambda: CODEC.unpack_at_most(bomb, 1000, "", "")) == "cache-too-large"

    def test_a_bomb_that_understates_its_size_is_refused(self) -> None:
        bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(100 << 20)))
        # RFC 8878, 3.1.1: magic, descriptor, window or not, content size in 4 bytes here.
        at = bomb.index((100 << 20).to_bytes(4, "little"))
        bomb[at : at + 4] = (1000).to_bytes(4, "little")
        assert reason(lambda: CODEC.unpack(bytes(bomb), 1000, "", "")) == "cache-frame"

    def test_a_frame_without_size_is_refused(self) -> None:
        frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
        assert reason(lambda: CODEC.unpack(frame, 100, "", "")) == "cache-frame"

    def test_bytes_after_a_frame_are_refused(self) -> None:
        frame = CODEC.compress(b"x" * 100)
        assert reason(lambda: CODEC.unpack(frame + frame, 100, "", "")) == "cache-frame"

    def test_a_frame_cut_anywhere_is_refused(self) -> None:
        frame = CODEC.compress(random.Random(1).randbytes(100))
        for length in range(len(frame)):
            assert reason(lambda length=length: CODEC.unpack(frame[:length], 100, "", "")) == "cache-frame"  # type: ignore[misc]


class TestCutting:
    def test_large_content_is_cut_where_it_always_was(self) -> None:
        """A golden vector: other cuts would share nothing with what caches hold."""
        cut = list(chunks(io.BytesIO(random.Random(7).randbytes(1 << 20))))
        assert [len(chunk) for chunk in cut] == GOLDEN_CUTS
        assert all(CHUNK_LEAST <= len(chunk) <= CHUNK_MOST for chunk in cut[:-1])

    def test_what_follows_a_change_is_cut_as_before(self) -> None:
        content = random.Random(8).randbytes(4 << 20)
        before = {blake3_hex(chunk) for chunk in chunks(io.BytesIO(content))}
        after = {blake3_hex(chunk) for chunk in chunks(io.BytesIO(content[: 1 << 20] + b"new" + content[1 << 20 :]))}
        assert len(after - before) <= 3

    @given(st.lists(st.integers(1, SMALL - 1), max_size=200), st.randoms(use_true_random=False))
    def test_groups_are_all_files_in_order_and_never_too_large(self, sizes: list[int], chance: random.Random) -> None:
        files = tuple(file(chance, size) for size in sizes)
        grouped = list(groups(files))
        assert tuple(one for group in grouped for one in group) == files
        assert all(group and sum(one.size for one in group) <= CHUNK_MOST for group in grouped)

    def test_a_changed_small_file_changes_few_groups(self) -> None:
        chance = random.Random(9)
        files = [file(chance, chance.randrange(1, 9000)) for _ in range(2000)]
        before = set(groups(tuple(files)))
        files[1000] = file(chance, 5000)
        assert len(set(groups(tuple(files))) - before) <= 4

    def test_each_content_occurs_once(self) -> None:
        tree = Files({"a": b"same", "b*": b"same", "c": b"", "d": b"", "e": bytes(SMALL)}).tree
        content = layout_of(tree)
        assert [[one.path for one in part] for part in (content.empty, content.small, content.large)] == [
            ["c"],
            ["a"],
            ["e"],
        ]

    def test_one_digest_has_one_size(self) -> None:
        digest = BlobDigest(blake3_hex(b"x"))
        tree = Tree.of([TreeEntry("a", EntryKind.FILE, digest, 1), TreeEntry("b", EntryKind.FILE, digest, 2)])
        with pytest.raises(TreeError):
            layout_of(tree)


GOLDEN_CUTS = [111090, 67285, 86090, 221300, 99418, 125415, 134887, 71542, 103858, 23090, 4601]


def file(chance: random.Random, size: int) -> TreeEntry:
    return TreeEntry("f", EntryKind.FILE, BlobDigest(chance.randbytes(32).hex()), size)


class TestMaps:
    FILES = Files({"a": b"1" * 10, "b": b"2" * 20, "big": random.Random(2).randbytes(200_000)})

    def map(self) -> TreeMap:
        content = layout_of(self.FILES.tree)
        pack, offset, cut = "0" * 64, 100, []
        for chunk in chunks(io.BytesIO(self.FILES.content["big"])):
            cut.append(Chunk(blake3_hex(chunk), pack, offset, 50, len(chunk)))
            offset += 50
        group = Group(content.small, Chunk("1" * 64, pack, 0, 40, 30))
        return TreeMap(self.FILES.tree.id, (), (group,), (Large(content.large[0], tuple(cut)),))

    def test_a_map_comes_back(self) -> None:
        assert treemap.parse(self.map().encode(SMALL), self.FILES.tree, "") == self.map()

    def test_a_map_is_shorter_than_the_longest(self) -> None:
        assert len(self.map().encode(SMALL)) < treemap.longest(self.FILES.tree)

    def test_another_trees_map_is_refused(self) -> None:
        other = Files({"a": b"other"}).tree
        assert reason(lambda: treemap.parse(self.map().encode(SMALL), other, "")) == "map-mismatch"

    @pytest.mark.parametrize(
        "change",
        [
            {"schema": 2},
            {"packs": []},
            {"packs": ["../../etc"]},
            {"packs": 5},
            {"chunks": []},
            {"groups": []},
            {"groups": [[1, 0]]},
            {"groups": [[3, 0]]},
            {"groups": [[0, 0], [2, 0]]},
            {"groups": [[-2, 0]]},
            {"groups": [[2, -1]]},
            {"groups": [[2, 99]]},
            {"groups": [[True, 0]]},
            {"files": []},
            {"files": [[1]]},
            {"files": [[1, 2], [1]]},
            {"files": [[-1]]},
            {"small": 10**9},
            {"small": 5},
            {"small": "x"},
        ],
    )
    def test_a_map_that_does_not_fit_the_manifest_is_refused(self, change: dict[str, object]) -> None:
        encoded = json.dumps({**json.loads(self.map().encode(SMALL)), **change}).encode()
        expected = "cache-schema" if "schema" in change else "map-invalid"
        assert reason(lambda: treemap.parse(encoded, self.FILES.tree, "")) == expected

    @pytest.mark.parametrize(
        "row",
        [
            ["1" * 64, 0, 0, 40, CHUNK_MOST + 1],
            ["1" * 64, 0, 0, 10**6, 30],
            ["1" * 64, 0, -1, 40, 30],
            ["1" * 64, 0, 10**12, 40, 30],
            ["1" * 64, 1, 0, 40, 30],
            ["1" * 64, 0, 0, 0, 30],
            ["1" * 64, 0, 0, 40, 29],
            ["../x", 0, 0, 40, 30],
            ["1" * 64, 0, 0, 40],
            [None, 0, 0, 40, 30],
            "text",
        ],
    )
    def test_a_chunk_that_cannot_be_is_refused(self, row: object) -> None:
        document = json.loads(self.map().encode(SMALL))
        document["chunks"][0] = row
        assert reason(lambda: treemap.parse(json.dumps(document).encode(), self.FILES.tree, "")) == "map-invalid"

    @given(st.integers(0, 3000))
    def test_a_map_cut_anywhere_is_refused(self, length: int) -> None:
        encoded = self.map().encode(SMALL)
        assert reason(lambda: treemap.parse(encoded[: length % len(encoded)], self.FILES.tree, "")) == "map-invalid"


class TestEntries:
    CHECKER = TraceChecker((ALICE.public, BOB.public), "there")

    def parse(self, encoded: bytes, key: ActionKey | None = None) -> str:
        trace = trace_of()
        return reason(lambda: self.CHECKER.parse(encoded, "", key or trace.key, layout.signer_id(ALICE.public)))

    def test_an_entry_comes_back(self) -> None:
        trace = replace(trace_of(), started=5.5, seconds=2.0, peak_memory_bytes=7)
        parsed = self.CHECKER.parse(trace_entry.encode(trace), "", trace.key, layout.signer_id(ALICE.public))
        assert parsed == trace

    def test_only_signatures_by_trusted_keys_are_kept(self) -> None:
        trace = trace_of(by=[ALICE, MALLORY, BOB])
        parsed = self.CHECKER.read(trace_entry.to_json(trace), "")
        assert [one.key for one in parsed.signatures] == [str(ALICE.public), str(BOB.public)]

    def test_a_name_that_a_signature_gives_its_key_does_not_count(self) -> None:
        document = trace_entry.to_json(trace_of())
        document["signatures"][0]["key"] = "bob:" + str(ALICE.public).partition(":")[2]
        assert [one.key for one in self.CHECKER.read(document, "").signatures] == [str(ALICE.public)]

    def test_an_entry_by_a_stranger_is_refused(self) -> None:
        assert self.parse(trace_entry.encode(trace_of(by=[MALLORY]))) == "trace-unknown-signer"
        assert self.parse(trace_entry.encode(trace_of(by=[]))) == "trace-unknown-signer"

    def test_an_entry_for_another_key_is_refused(self) -> None:
        assert self.parse(trace_entry.encode(trace_of("older"))) == "trace-wrong-key"

    def test_an_entry_by_another_signer_is_refused(self) -> None:
        assert self.parse(trace_entry.encode(trace_of(by=[BOB]))) == "trace-wrong-signer"

    def test_a_signature_of_something_else_is_refused(self) -> None:
        trace = replace(trace_of(output="evil"), signatures=trace_of().signatures)
        assert self.parse(trace_entry.encode(trace)) == "trace-bad-signature"

    @pytest.mark.parametrize("what", ["builder", "outputs", "preimage", "key"])
    def test_what_is_signed_cannot_be_changed(self, what: str) -> None:
        document = trace_entry.to_json(trace_of())
        document[what] = trace_entry.to_json(trace_of("other", output="2", by=[BOB]))[what]
        assert self.parse(json.dumps(document).encode()) in {"trace-bad-signature", "trace-wrong-key"}

    def test_the_name_is_that_of_the_derivation(self) -> None:
        document = {**trace_entry.to_json(trace_of()), "name": "../../evil"}
        assert self.CHECKER.read(document, "").name == "thing"

    def test_a_name_that_is_a_path_is_refused_even_when_signed(self) -> None:
        trace = trace_of()
        preimage = trace.preimage.replace(b'"thing"', b'"../up"')
        evil = signed(replace(trace, preimage=preimage, key=ActionKey(blake3_hex(preimage))), [ALICE])
        assert self.parse(trace_entry.encode(evil), evil.key) == "trace-malformed"

    @pytest.mark.parametrize(
        "change",
        [
            {"schema": 2},
            {"outputs": {}},
            {"outputs": {"out": {"tree": "../x", "size": 1}}},
            {"outputs": {"out": {"tree": "0" * 64, "size": -1}}},
            {"outputs": {"out": {"tree": "0" * 64, "size": True}}},
            {"outputs": []},
            {"seconds": "x"},
            {"seconds": float("nan")},
            {"peak": float("inf")},
            {"signatures": None},
            {"signatures": [{"key": "x", "value": "!"}]},
            {"preimage": "[]"},
            {"preimage": "\ud800"},
        ],
    )
    def test_a_malformed_entry_is_refused(self, change: dict[str, object]) -> None:
        encoded = json.dumps({**trace_entry.to_json(trace_of()), **change}).encode()
        assert self.parse(encoded) == ("trace-wrong-key" if change.get("preimage") == "[]" else "trace-malformed")

    def test_an_entry_cut_anywhere_is_refused(self) -> None:
        encoded = trace_entry.encode(trace_of())
        for length in range(len(encoded)):
            assert self.parse(encoded[:length]) == "trace-malformed"
        assert self.parse(b"[" * 100_000) == "trace-malformed"


class TestInfo:
    def test_what_a_cache_says_comes_back(self) -> None:
        transport = MemoryTransport()
        transport.put(layout.INFO, CacheInfo((ALICE.public,)).encode())
        assert read_info(transport) == CacheInfo((ALICE.public,))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b'{"schema":2,"digest":"blake3","keys":[],"pack_bytes":1}', "cache-schema"),
            (b'{"schema":1,"digest":"sha1","keys":[],"pack_bytes":1}', "cache-schema"),
            (b'{"schema":1,"digest":"blake3","keys":["x"],"pack_bytes":1}', "cache-malformed"),
            (b"<html>", "cache-malformed"),
            (b"[]", "cache-malformed"),
            (bytes(1 << 20), "cache-too-large"),
        ],
    )
    def test_a_cache_of_another_kind_is_refused(self, content: bytes, expected: str) -> None:
        transport = MemoryTransport()
        transport.put(layout.INFO, content)
        assert reason(lambda: read_info(transport)) == expected


class TestNames:
    @pytest.mark.parametrize(
        ("name", "stem"),
        [("zig-0.15.2", "zig"), ("mmojo-server.ape", "mmojo-server.ape"), ("llama.cpp-v1-rc", "llama.cpp"),
         ("../up", "up"), ("-1", "unnamed"), ("ü-1", "unnamed")],
    )  # fmt: skip
    def test_versions_of_one_thing_share_a_folder(self, name: str, stem: str) -> None:
        assert layout.names_folder(name) == f"names/{stem}"


class TestBreaker:
    def test_it_opens_after_so_many_failures_in_a_row(self) -> None:
        breaker = Breaker(limit=3, pause=30)
        breaker = breaker.failed(0).failed(1).succeeded().failed(2).failed(3)
        assert breaker.allows(3)
        breaker = breaker.failed(4)
        assert not breaker.allows(4)
        assert not breaker.allows(33.9)
        assert breaker.allows(34)

    def test_one_attempt_that_fails_doubles_the_pause_up_to_a_limit(self) -> None:
        breaker = Breaker(limit=1, pause=30, longest=100).failed(0)
        assert breaker.until == 30
        breaker = breaker.failed(30)
        assert breaker.until == 90
        breaker = breaker.failed(90)
        assert breaker.until == 190
        for _ in range(3000):
            breaker = breaker.failed(breaker.until)
        assert not breaker.succeeded().until

    def test_failures_while_it_is_open_do_not_count(self) -> None:
        breaker = Breaker(limit=1, pause=30).failed(0)
        assert breaker.failed(5) == breaker
