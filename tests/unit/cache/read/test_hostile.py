"""Caches that lie, break off, stall, never end and lead elsewhere: none of what they give is accepted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import index, layout
from mmojo_forge.cache.format.chunks import Codec
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.read.transfer import Options
from mmojo_forge.cache.transport.fakes import Alter, Altered, Endless, FaultyTransport, MemoryTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.protocol import Body, Transport, read_whole
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.cache.write.writer import CacheWriter
from mmojo_forge.model import canonical, trace_entry
from mmojo_forge.model.digest import DerivationId, TreeId, blake3_hex
from mmojo_forge.model.tree import EntryKind
from mmojo_forge.net.settings import HttpSettings
from tests.support.caches import ALICE, BOB, MALLORY, CheckingSink, Files, Handler, drip, reason, serving, trace_of

ROOT = DerivationId("d" * 64)
FILES = Files({"a": b"one", "b*": b"two" * 500, "big": random.Random(3).randbytes(150_000), "empty": b""})
TREE = FILES.tree
BOMB = zstandard.ZstdCompressor().compress(bytes(64 << 20))
IMPATIENT = Options(attempts=2, sleep=lambda _: None)


def cache() -> MemoryTransport:
    transport = MemoryTransport()
    trace = trace_of(output=TREE.id, size=TREE.size)
    CacheWriter(transport).ensure_info(CacheInfo())
    CacheWriter(transport).push([FILES.item], [trace], {ROOT: [trace]}, signer=ALICE.public)
    return transport


def fetch(transport: Transport, partial: Path) -> None:
    """Fetch; the sink insists that everything it gets is what it must be."""
    sink = CheckingSink()
    reader = CacheReader(transport, [ALICE.public], IMPATIENT)
    try:
        reader.fetch_tree(TREE.id, sink, partial, size=TREE.size)
    except CacheError:
        assert not list(partial.glob("*.part"))
        raise
    assert sink.has_all_of(TREE)


def pack_of(transport: MemoryTransport) -> str:
    (path,) = [path for path in transport.objects if path.startswith("packs/")]
    return path


def endless_below(kind: str) -> Alter:
    """Answers that do not end, for what lies below a folder."""

    def alter(path: str, body: Body) -> Body:
        return Endless() if path.startswith(kind) else body

    return alter


class TestContent:
    @pytest.mark.parametrize(
        ("path", "content", "expected"),
        [
            (layout.tree_path(TREE.id), Codec().compress(Files({"a": b"x"}).tree.encode()), "manifest-mismatch"),
            (layout.tree_path(TREE.id), BOMB, "manifest-mismatch"),
            (layout.tree_path(TREE.id), b"<html>not found</html>", "cache-frame"),
            (layout.map_path(TREE.id), BOMB, "cache-too-large"),
            (layout.map_path(TREE.id), Codec().compress(b"[" * 1000), "map-invalid"),
            (layout.map_path(TREE.id), bytes(10 << 20), "cache-too-large"),
        ],
    )
    def test_what_is_not_what_was_asked_for_is_refused(
        self, path: str, content: bytes, expected: str, tmp_path: Path
    ) -> None:
        transport = cache()
        transport.put(path, content, if_absent=False)
        assert reason(lambda: fetch(transport, tmp_path / "p")) == expected

    def test_right_content_of_another_size_than_was_signed_is_refused(self, tmp_path: Path) -> None:
        reader = CacheReader(cache(), [ALICE.public])
        for size in (0, TREE.size - 1, TREE.size + 1):
            assert (
                reason(lambda size=size: reader.fetch_tree(TREE.id, CheckingSink(), tmp_path, size=size))  # type: ignore[misc]
                == "manifest-size"
            )

    @pytest.mark.parametrize(
        "rows",
        [
            [["", "d"], ["..", "d"]],
            [["", "d"], ["../up", "f", "0" * 64, 1]],
            [["", "d"], ["/etc", "d"]],
            [["", "d"], ["a", "l", "/etc/passwd"]],
            [["", "d"], ["a", "l", "../.."]],
            [["", "d"], ["a\0b", "d"]],
            [["", "d"], ["a", "f", "../../x", 1]],
            [["", "d"], ["b", "d"], ["a", "d"]],
            [["", "d"], ["a", "d"], ["a", "f", "0" * 64, 1]],
            [["", "d"], ["a", "f", "0" * 64, 1], ["b", "f", "0" * 64, 2]],
            [["", "d"], ["a", "s", "socket"]],
            [],
        ],
    )
    def test_a_tree_that_must_not_be_checked_out_is_refused_even_by_its_right_name(
        self, rows: list[canonical.Json], tmp_path: Path
    ) -> None:
        manifest = canonical.encode({"entries": rows, "schema": 1})
        tree = TreeId(blake3_hex(manifest))
        transport = cache()
        transport.put(layout.tree_path(tree), Codec().compress(manifest))
        transport.put(layout.map_path(tree), transport.objects[layout.map_path(TREE.id)])
        reader = CacheReader(transport, ())
        assert reason(lambda: reader.fetch_tree(tree, CheckingSink(), tmp_path)) == "manifest-invalid"

    @settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_no_flipped_byte_is_accepted(self, data: st.DataObject, tmp_path: Path) -> None:
        transport = cache()
        path = data.draw(st.sampled_from([pack_of(transport), layout.tree_path(TREE.id), layout.map_path(TREE.id)]))
        content = bytearray(transport.objects[path])
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        transport.objects[path] = bytes(content)
        try:
            # A flip that Zstandard does not mind gives the same content; the sink checks that it is.
            fetch(transport, tmp_path / "p")
        except CacheError as error:
            assert error.fault in {CacheFault.LYING, CacheFault.FAILING, CacheFault.MISSING}

    @settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_nothing_that_is_cut_off_is_accepted(self, data: st.DataObject, tmp_path: Path) -> None:
        transport = cache()
        path = data.draw(st.sampled_from([pack_of(transport), layout.tree_path(TREE.id), layout.map_path(TREE.id)]))
        content = transport.objects[path]
        transport.objects[path] = content[: data.draw(st.integers(0, len(content) - 1))]
        found = reason(lambda: fetch(transport, tmp_path / "p"))
        assert found == ("cache-truncated" if path.startswith("packs/") else "cache-frame")

    def test_a_pack_that_is_cut_off_at_a_chunk_is_refused(self, tmp_path: Path) -> None:
        transport = cache()
        path = pack_of(transport)
        content = transport.objects[path]
        ends = {chunk.offset for chunk in CacheReader(transport, ()).read_map(TREE).chunks()}
        for end in sorted({max(end + by, 0) for end in ends for by in (-1, 0, 1)}):
            transport.objects[path] = content[:end]
            with pytest.raises(CacheError) as failed:
                fetch(transport, tmp_path / str(end))
            assert failed.value.reason == "cache-truncated"

    def test_chunks_in_another_order_are_refused(self, tmp_path: Path) -> None:
        transport = cache()
        path = layout.map_path(TREE.id)
        document = json.loads(zstandard.ZstdDecompressor().decompress(transport.objects[path]))
        document["files"][0].reverse()
        transport.objects[path] = Codec().compress(canonical.encode(document))
        assert reason(lambda: fetch(transport, tmp_path / "p")) == "blob-mismatch"

    def test_a_map_that_calls_other_content_by_its_own_digest_is_refused(self, tmp_path: Path) -> None:
        """Every chunk is what the map says, and the map is wrong: only the manifest can tell."""
        other = Files({"a": b"two", "b*": b"one" * 500, "big": random.Random(4).randbytes(150_000), "empty": b""})
        transport, evil = cache(), MemoryTransport()
        CacheWriter(evil).push([other.item])
        found = CacheReader(evil, ()).read_map(other.tree)
        transport.put(pack_of(evil), evil.objects[pack_of(evil)])
        encoded = replace(found, tree=TREE.id).encode(64 << 10)
        transport.objects[layout.map_path(TREE.id)] = Codec().compress(encoded)
        assert reason(lambda: fetch(transport, tmp_path / "p")) in {"blob-mismatch", "map-invalid"}

    def test_a_chunk_that_is_a_bomb_is_refused(self, tmp_path: Path) -> None:
        transport = cache()
        path = pack_of(transport)
        transport.objects[path] = BOMB + transport.objects[path][len(BOMB) :]
        assert reason(lambda: fetch(transport, tmp_path / "p")) == "cache-frame"

    def test_an_answer_without_end_is_not_read_on(self, tmp_path: Path) -> None:
        for kind, expected in [("trees/", "cache-too-large"), ("maps/", "cache-too-large"), ("packs/", "cache-frame")]:
            endless = FaultyTransport(cache(), alter=endless_below(kind))
            with pytest.raises(CacheError) as failed:
                fetch(endless, tmp_path / "p")
            assert failed.value.reason == expected
        endless = FaultyTransport(cache(), alter=endless_below(""))
        reader = CacheReader(endless, [ALICE.public])
        assert reason(reader.info) == "cache-too-large"
        assert [one.reason for one in reader.fetch_index([ROOT]).errors] == ["cache-too-large"]
        assert [one.reason for one in reader.fetch_traces([trace_of().key]).errors] == ["cache-too-large"]

    def test_a_pack_that_is_gone_is_a_miss(self, tmp_path: Path) -> None:
        transport = cache()
        transport.delete(pack_of(transport))
        with pytest.raises(CacheError) as failed:
            fetch(transport, tmp_path / "p")
        assert (failed.value.reason, failed.value.fault) == ("cache-missing", CacheFault.MISSING)

    def test_a_pack_is_tried_again_where_the_connection_broke(self, tmp_path: Path) -> None:
        broken: list[str] = []

        def once(path: str, body: object) -> object:
            if path.startswith("packs/") and not broken:
                broken.append(path)
                return Altered(body, lambda content: content[:90_000])  # type: ignore[arg-type]
            return body

        fetch(FaultyTransport(cache(), alter=once), tmp_path / "p")  # type: ignore[arg-type]
        assert broken


class TestTraces:
    """Entries and indexes: each answers with an error, and without the trace."""

    def answers(self, transport: Transport, expected: str | None) -> None:
        reader = CacheReader(transport, [ALICE.public])
        for answer in (reader.fetch_traces([trace_of().key]), reader.fetch_index([ROOT])):
            assert not answer.traces
            assert [error.reason for error in answer.errors] == ([expected] if expected else [])

    def planted(self, document: bytes, indexed: bytes) -> MemoryTransport:
        transport = MemoryTransport()
        transport.put(layout.trace_path(trace_of().key, layout.signer_id(ALICE.public)), document)
        transport.put(layout.index_path(ROOT, layout.signer_id(ALICE.public)), Codec().compress(indexed))
        return transport

    @pytest.mark.parametrize(
        ("by", "expected"),
        [([MALLORY], "trace-unknown-signer"), ([BOB], "trace-unknown-signer"), ([], "trace-unknown-signer")],
    )
    def test_a_signature_by_another_than_is_trusted_does_not_count(self, by: list[object], expected: str) -> None:
        """A stranger's, that of a key that was revoked (and so is not among the trusted), and none at all."""
        trace = trace_of(by=by)  # type: ignore[arg-type]
        self.answers(self.planted(trace_entry.encode(trace), index.encode(ROOT, [trace])), expected)

    def test_a_signature_that_was_moved_to_another_claim_does_not_hold(self) -> None:
        trace = replace(trace_of(output="evil", by=[MALLORY]), builder="alice", signatures=trace_of().signatures)
        self.answers(self.planted(trace_entry.encode(trace), index.encode(ROOT, [trace])), "trace-bad-signature")

    def test_an_entry_that_was_signed_for_another_key_is_not_replayed_for_this_one(self) -> None:
        older = trace_of(env="older")
        transport = self.planted(trace_entry.encode(older), index.encode(ROOT, [older]))
        reader = CacheReader(transport, [ALICE.public])
        found = reader.fetch_traces([trace_of().key])
        assert (found.traces, [one.reason for one in found.errors]) == ({}, ["trace-wrong-key"])
        assert set(reader.fetch_index([ROOT]).traces) == {older.key}

    def test_an_index_of_another_root_is_refused(self) -> None:
        transport = self.planted(b"", index.encode(DerivationId("e" * 64), [trace_of()]))
        found = CacheReader(transport, [ALICE.public]).fetch_index([ROOT])
        assert (found.traces, [one.reason for one in found.errors]) == ({}, ["cache-malformed"])

    def test_one_bad_row_does_not_spoil_an_index(self) -> None:
        good, bad = trace_of("good"), trace_of("bad", by=[MALLORY])
        found = CacheReader(self.planted(b"", index.encode(ROOT, [good, bad])), [ALICE.public]).fetch_index([ROOT])
        assert (set(found.traces), [one.reason for one in found.errors]) == ({good.key}, ["trace-unknown-signer"])

    def test_what_is_not_there_is_no_error(self) -> None:
        self.answers(MemoryTransport(), None)

    def test_a_cache_that_is_dead_fails_at_once(self) -> None:
        dead = FaultyTransport(MemoryTransport(), operations=0)
        reader = CacheReader(dead, [ALICE.public], Options(connections=2))
        keys = [trace_of(f"t{at}").key for at in range(100)]
        assert reason(lambda: reader.fetch_traces(keys)) == "cache-unreachable"
        assert len(dead.asked) < 20

    @settings(deadline=None, max_examples=120)
    @given(data=st.data())
    def test_no_flipped_byte_is_accepted(self, data: st.DataObject) -> None:
        trace = trace_of()
        content = bytearray(trace_entry.encode(trace))
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        found = CacheReader(self.planted(bytes(content), b""), [ALICE.public]).fetch_traces([trace.key])
        for (one,) in found.traces.values():
            # Only what nobody signs may differ: times, memory, the name that stands beside the key.
            assert (one.fingerprint(), one.preimage, one.name) == (trace.fingerprint(), trace.preimage, trace.name)


class TestServers:
    """The same over HTTP, where there are more ways to misbehave."""

    def asked(self, tmp_path: Path, odd: Callable[[Handler], bool], read: str, **settings: object) -> str:
        chosen = HttpSettings(stall_seconds=0.5, grace_seconds=0.3, least_rate=1e5, **settings)  # type: ignore[arg-type]
        with serving(tmp_path) as server:
            server.odd = odd
            transport = WebTransport(server.url, chosen)
            try:
                return reason(lambda: read_whole(transport, read, 1 << 20))
            finally:
                transport.close()

    @pytest.mark.parametrize(
        ("status", "expected"),
        [(404, "cache-missing"), (410, "cache-missing"), (401, "cache-refused"), (403, "cache-refused"),
         (500, "cache-server-error"), (503, "cache-server-error"), (429, "cache-server-error"),
         (206, "cache-server-error"), (302, "cache-server-error"), (418, "cache-server-error")],
    )  # fmt: skip
    def test_a_status_is_no_content(self, status: int, expected: str, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(status, {}, b"content")
            return True

        assert self.asked(tmp_path, odd, "trees/x") == expected

    @pytest.mark.parametrize(
        "target",
        [
            "http://localhost:1/x",
            "https://elsewhere.invalid/x",
            "//elsewhere.invalid/x",
            "file:///etc/passwd",
            "http://[",
        ],
    )
    def test_a_redirect_to_another_host_is_not_followed(self, target: str, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(302, {"Location": target})
            return True

        assert self.asked(tmp_path, odd, "trees/x") in {"cache-redirect", "cache-url"}

    def test_a_redirect_without_end_is_not_followed(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(302, {"Location": exchange.path})
            return True

        assert self.asked(tmp_path, odd, "trees/x") == "cache-redirect"

    def test_a_redirect_on_the_same_host_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "there").write_bytes(b"content")

        def odd(exchange: Handler) -> bool:
            if exchange.path == "/here":
                exchange.answer(307, {"Location": "/there"})
            return exchange.path == "/here"

        with serving(tmp_path) as server:
            server.odd = odd
            transport = WebTransport(server.url)
            assert read_whole(transport, "here", 100) == b"content"
            transport.close()

    def test_a_body_that_drips_is_given_up(self, tmp_path: Path) -> None:
        assert self.asked(tmp_path, drip, "trees/x") == "cache-slow"

    def test_a_body_that_stalls_is_given_up(self, tmp_path: Path) -> None:
        assert self.asked(tmp_path, lambda exchange: drip(exchange, 3), "trees/x") == "cache-timeout"

    def test_a_server_that_does_not_answer_is_given_up(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.server.closing.wait(3)
            exchange.close_connection = True
            return True

        assert self.asked(tmp_path, odd, "trees/x") == "cache-timeout"

    def test_a_body_that_ends_early_is_refused(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(200, {"Content-Length": "1000"}, b"x" * 10)
            exchange.close_connection = True
            return True

        assert self.asked(tmp_path, odd, "trees/x") == "cache-truncated"

    def test_a_body_without_end_is_refused(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.send_response(200)
            exchange.end_headers()
            while not exchange.server.closing.is_set():
                exchange.wfile.write(bytes(1 << 16))
            return True

        assert self.asked(tmp_path, odd, "trees/x") == "cache-too-large"

    def test_what_is_no_http_is_refused(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.wfile.write(b"SSH-2.0-OpenSSH\r\n")
            exchange.close_connection = True
            return True

        assert self.asked(tmp_path, odd, "trees/x") == "cache-unreachable"

    def test_nobody_there_is_a_failure(self) -> None:
        with pytest.raises(CacheError) as failed:
            read_whole(WebTransport("http://127.0.0.1:1"), "trees/x", 10)
        assert (failed.value.reason, failed.value.fault) == ("cache-unreachable", CacheFault.FAILING)

    def test_content_that_a_server_encodes_is_not_what_was_asked_for(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(200, {"Content-Encoding": "gzip"}, b"content")
            return True

        with serving(tmp_path) as server:
            server.odd = odd
            transport = WebTransport(server.url)
            assert read_whole(transport, "x", 100) == b"content"
            transport.close()

    def test_the_token_is_needed_to_write_and_told_to_nobody_else(self, tmp_path: Path) -> None:
        seen: list[str | None] = []

        def odd(exchange: Handler) -> bool:
            seen.append(exchange.headers.get("Authorization"))
            return False

        with serving(tmp_path) as server:
            for token in ("", "wrong"):
                transport = WebTransport(server.url, HttpSettings(token=token))
                assert reason(lambda transport=transport: transport.put("x", b"1")) == "cache-refused"  # type: ignore[misc]
                transport.close()
            server.odd = odd
            transport = WebTransport(server.url, HttpSettings(token="secret"))
            assert transport.put("x", b"1")
            transport.close()
        assert seen == ["Bearer secret"]
        assert (tmp_path / "x").read_bytes() == b"1"

    @pytest.mark.parametrize("url", ["", "ftp://x", "http://", "file:///tmp", "http://x:y", "http://[::"])
    def test_a_cache_has_a_url(self, url: str) -> None:
        assert reason(lambda: WebTransport(url)) == "cache-url"

    def test_a_token_does_not_travel_in_the_clear(self) -> None:
        assert reason(lambda: WebTransport("http://cache.invalid", HttpSettings(token="secret"))) == "cache-url"
        WebTransport("https://cache.invalid", HttpSettings(token="secret"))
        WebTransport("http://cache.invalid", HttpSettings(token="secret", plain_token=True))

    def test_user_and_password_are_not_shown(self) -> None:
        assert WebTransport("https://me:secret@cache.invalid/x/").place == "https://cache.invalid/x"

    def test_folders_that_are_not_listed_are_no_obstacle_to_a_push(self, tmp_path: Path) -> None:
        with serving(tmp_path) as server:
            server.hides_folders = True
            transport = WebTransport(server.url, HttpSettings(token="secret"))
            assert reason(lambda: transport.entries("names/x")) == "cache-no-listing"
            assert CacheWriter(transport).push([FILES.item]).trees == 1
            fetch(transport, tmp_path / "p")
            transport.close()

    def test_a_listing_that_is_none_is_no_listing(self, tmp_path: Path) -> None:
        def odd(exchange: Handler) -> bool:
            exchange.answer(200, {}, b"<html><a href=x>x</a>")
            return True

        with serving(tmp_path) as server:
            server.odd = odd
            transport = WebTransport(server.url)
            assert reason(lambda: transport.entries("names/x")) == "cache-no-listing"
            transport.close()


class TestFolders:
    def test_a_symlink_in_a_folder_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "trees").mkdir()
        (tmp_path / "trees" / "x").symlink_to("/etc/passwd")
        assert reason(lambda: read_whole(FolderTransport(tmp_path), "trees/x", 1 << 20)) == "cache-io"

    def test_a_folder_in_the_place_of_a_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "trees" / "x").mkdir(parents=True)
        assert reason(lambda: read_whole(FolderTransport(tmp_path), "trees/x", 1 << 20)) == "cache-io"

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        assert reason(lambda: FolderTransport(tmp_path).put("packs/x", b"1")) == "cache-io"
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_executable_and_plain_content_is_given_once(tmp_path: Path) -> None:
    files = Files({"a": b"same", "b*": b"same"})
    transport = MemoryTransport()
    CacheWriter(transport).push([files.item])
    sink = CheckingSink()
    CacheReader(transport, ()).fetch_tree(files.tree.id, sink, tmp_path / "p")
    assert len(sink.got) == 1
    assert {file.kind for file in files.tree.files()} == {EntryKind.FILE, EntryKind.EXECUTABLE}
