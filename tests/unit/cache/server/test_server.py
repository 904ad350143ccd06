"""The server of a cache, over HTTP: what is given, what is taken, what is refused; nothing outside is ever reached."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.format import index, layout
from mmojo_forge.cache.format.chunks import Codec
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.cache.gc.collect import GRACE, collect, plan_collection
from mmojo_forge.cache.read.reader import CacheReader
from mmojo_forge.cache.server.tokens import Access, Tokens
from mmojo_forge.cache.transport.bazel import BazelTransport
from mmojo_forge.cache.transport.protocol import Span, read_exactly, read_whole
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.cache.write.writer import CacheWriter, PushMode
from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import DerivationId, TreeId, blake3_hex
from mmojo_forge.model.trace import Trace
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_serving import (
    AUTHORIZED,
    ONLY_NEW,
    READ_TOKEN,
    READABLE,
    TOKEN,
    WRITABLE,
    Answer,
    Served,
    eventually,
    files_below,
    put_head,
    read_all,
    served,
    unfinished,
)
from tests.support.caches import ALICE, BOB, CheckingSink, Files, trace_of

CONTENT = random.Random(1).randbytes(300_000)
PACK = layout.pack_path(blake3_hex(CONTENT))
ROOT = DerivationId("d" * 64)
FILES = Files({"a": b"one", "b*": b"two" * 500, "big": random.Random(3).randbytes(150_000), "empty": b""})
TREE = FILES.tree
compress = Codec().compress


def signer(trace: Trace) -> str:
    return layout.signer_id(ALICE.public)


TRACE = trace_of(output=TREE.id, size=TREE.size)
# One object of each kind, as clients write them.
OBJECTS = {
    layout.INFO: CacheInfo().encode(),
    PACK: CONTENT,
    layout.tree_path(TREE.id): compress(TREE.encode()),
    layout.map_path(TREE.id): compress(b"{}"),
    layout.name_path("zig-0.15", TREE.id): TREE.id.encode(),
    layout.trace_path(TRACE.key, signer(TRACE)): trace_entry.encode(TRACE),
    layout.index_path(ROOT, signer(TRACE)): compress(index.encode(ROOT, [TRACE])),
    f"cas/{sha256(CONTENT).hexdigest()}": CONTENT,
    f"ac/{'a' * 64}": b"whatever an action came to",
    "collection.json": b'{"began":1.0,"ended":2.0,"schema":1}',
}
ONCE = [path for path in OBJECTS if path.startswith(("cache-info", "names/", "traces/"))]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "cache") as running:
        yield running


def reason(answer: Answer) -> str:
    document = json.loads(answer.body)
    assert document["error"]["message"]
    told: str = document["error"]["reason"]
    return told


class TestReading:
    @pytest.mark.parametrize("path", OBJECTS)
    def test_what_was_written_is_read(self, server: Served, path: str) -> None:
        assert server.put_new(path, OBJECTS[path]) == 201
        answer = server.ask("GET", f"/{path}")
        assert (answer.status, answer.body) == (200, OBJECTS[path])
        assert answer.headers["content-length"] == str(len(OBJECTS[path]))
        head = server.ask("HEAD", f"/{path}")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(OBJECTS[path])))

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_what_is_not_there_is_not_found(self, server: Served, method: str) -> None:
        for path in OBJECTS:
            assert server.ask(method, f"/{path}", AUTHORIZED).status == 404

    @pytest.mark.parametrize(
        ("asked", "start", "stop"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=0-", 0, 300_000),
            ("bytes=1000-1999", 1000, 2000),
            ("bytes=299999-", 299_999, 300_000),
            ("bytes=299990-999999999", 299_990, 300_000),
            ("bytes=0-999999999999999999", 0, 300_000),
            ("bytes=-10", 299_990, 300_000),
            ("bytes=-999999", 0, 300_000),
            ("BYTES=5-5", 5, 6),
        ],
    )
    def test_a_range_is_a_part(self, server: Served, asked: str, start: int, stop: int) -> None:
        server.put_new(PACK, CONTENT)
        answer = server.ask("GET", f"/{PACK}", {"Range": asked})
        assert (answer.status, answer.body) == (206, CONTENT[start:stop])
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/300000"
        assert answer.headers["content-length"] == str(stop - start)

    @pytest.mark.parametrize("asked", ["bytes=300000-", "bytes=300000-300001", "bytes=-0", "bytes=999999999999999999-"])
    def test_a_range_beyond_the_end_cannot_be_had(self, server: Served, asked: str) -> None:
        server.put_new(PACK, CONTENT)
        answer = server.ask("GET", f"/{PACK}", {"Range": asked})
        assert (answer.status, reason(answer)) == (416, "range")
        assert answer.headers["content-range"] == "bytes */300000"

    @pytest.mark.parametrize(
        "asked",
        [
            "bytes=5-4",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "items=0-5",
            "bytes=0-1,3-4",
            "bytes 0-5",
            "bytes=٠-٥",
            f"bytes={'9' * 30}-",
        ],
    )
    def test_what_is_no_single_range_is_passed_over(self, server: Served, asked: str) -> None:
        server.put_new(PACK, CONTENT)
        sent = f"GET /{PACK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: {asked}\r\n\r\n"
        head, _, body = server.raw(sent.encode()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == CONTENT

    def test_a_range_is_for_get_alone(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        answer = server.ask("HEAD", f"/{PACK}", {"Range": "bytes=0-9"})
        assert (answer.status, answer.headers["content-length"]) == (200, "300000")

    def test_the_empty_blob_is_always_there(self, server: Served) -> None:
        for method in ("GET", "HEAD"):
            answer = server.ask(method, f"/cas/{sha256().hexdigest()}")
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")

    def test_a_range_of_nothing_cannot_be_had(self, server: Served) -> None:
        path = f"cas/{sha256().hexdigest()}"
        assert server.put_new(path, b"") == 201
        assert server.ask("GET", f"/{path}").body == b""
        assert server.ask("GET", f"/{path}", {"Range": "bytes=0-"}).status == 416

    def test_conditions_are_heeded(self, server: Served) -> None:
        path = f"ac/{'b' * 64}"
        server.put(path, b"first")
        first = server.ask("GET", f"/{path}").headers
        tag, date = first["etag"], first["last-modified"]
        for known in (tag, f'"other", {tag}', "*", f"W/{tag}"):
            assert server.ask("GET", f"/{path}", {"If-None-Match": known}).status == 304
        assert server.ask("GET", f"/{path}", {"If-None-Match": '"other"', "If-Modified-Since": date}).status == 200
        assert server.ask("GET", f"/{path}", {"If-Modified-Since": date}).status == 304
        assert server.ask("GET", f"/{path}", {"If-Match": tag}).status == 200
        assert server.ask("GET", f"/{path}", {"If-Match": '"other"'}).status == 412
        assert server.ask("GET", f"/{path}", {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}).status == 412
        for validator in (tag, date):
            answer = server.ask("GET", f"/{path}", {"Range": "bytes=0-1", "If-Range": validator})
            assert (answer.status, answer.body) == (206, b"fi")
        server.put(path, b"second")
        answer = server.ask("GET", f"/{path}", {"Range": "bytes=0-1", "If-Range": tag})
        assert (answer.status, answer.body) == (200, b"second")
        assert server.ask("GET", f"/{path}", {"If-None-Match": tag}).status == 200

    def test_folders_are_listed_as_nginx_does(self, server: Served) -> None:
        for path, content in OBJECTS.items():
            server.put_new(path, content)
        (server.folder / "names" / "zig" / "foreign").touch()
        (server.folder / "names" / ".hidden").mkdir()
        (server.folder / "names" / "link").symlink_to("zig")
        answer = server.ask("GET", "/names/zig/")
        (row,) = json.loads(answer.body)
        assert answer.headers["content-type"] == "application/json"
        assert row.pop("mtime").endswith(" GMT")
        assert row == {"name": TREE.id, "type": "file", "size": 64}
        (row,) = json.loads(server.ask("GET", "/names/").body)
        assert (row["name"], row["type"]) == ("zig", "directory")
        assert server.ask("GET", "/names/gcc/").status == 404
        for path in ("/", "/cas/", "/.serving/", "/names/.hidden/", "/names/link/", "/names/zig//", "//"):
            assert server.ask("GET", path).status == 404

    def test_several_requests_go_over_one_connection(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        one = f"GET /{PACK} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-3\r\n"
        answers = server.raw(f"{one}\r\n{one}\r\n{one}Connection: close\r\n\r\n".encode())
        assert answers.count(b"HTTP/1.1 206 ") == 3
        assert answers.count(CONTENT[:4]) == 3

    def test_a_proxys_form_of_the_target_is_understood(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        sent = f"HEAD http://cache.example:80/{PACK} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert server.raw(sent.encode()).startswith(b"HTTP/1.1 200 ")


class TestWriting:
    @pytest.mark.parametrize("path", OBJECTS)
    def test_what_is_there_stays_where_only_new_is_wanted(self, server: Served, path: str) -> None:
        assert server.put_new(path, OBJECTS[path]) == 201
        assert server.put_new(path, OBJECTS[path]) == 412
        assert server.ask("GET", f"/{path}").body == OBJECTS[path]

    @pytest.mark.parametrize("path", OBJECTS)
    def test_what_may_change_or_rot_can_be_replaced(self, server: Served, path: str) -> None:
        assert server.put(path, OBJECTS[path]) == 201
        (stored,) = (
            file for file in server.folder.rglob("*") if file.name == path.rpartition("/")[2] and file.is_file()
        )
        stored.write_bytes(b"rotted")
        assert server.put(path, OBJECTS[path]) == (409 if path in ONCE else 204)
        assert server.ask("GET", f"/{path}").body == (b"rotted" if path in ONCE else OBJECTS[path])

    @pytest.mark.parametrize(
        ("path", "content", "expected"),
        [
            (PACK, CONTENT + b"x", "pack-mismatch"),
            (PACK, b"", "pack-mismatch"),
            (f"cas/{'0' * 64}", CONTENT, "blob-mismatch"),
            (layout.tree_path(TreeId("0" * 64)), OBJECTS[layout.tree_path(TREE.id)], "manifest-mismatch"),
            (layout.tree_path(TREE.id), OBJECTS[layout.tree_path(TREE.id)][:-3], "cache-frame"),
            (layout.tree_path(TREE.id), OBJECTS[layout.tree_path(TREE.id)] + b"more", "cache-frame"),
            (layout.tree_path(TREE.id), compress(bytes(129 << 20)), "cache-too-large"),
            (layout.map_path(TREE.id), b"<html>", "cache-frame"),
            (layout.map_path(TREE.id), b"", "cache-frame"),
            (layout.index_path(ROOT, "0" * 16), b"{}", "cache-frame"),
            (layout.name_path("zig", TREE.id), b"", "name-mismatch"),
            (layout.name_path("zig", TREE.id), b"0" * 64, "name-mismatch"),
            (layout.INFO, b"{}", "cache-malformed"),
            (layout.INFO, b'{"schema":2,"digest":"blake3"}', "cache-schema"),
            (layout.trace_path(TRACE.key, signer(TRACE)), b"{}", "trace-malformed"),
            (layout.trace_path(TRACE.key, signer(TRACE)), b"[" * 100_000, "trace-malformed"),
            (layout.trace_path(TRACE.key, "0" * 16), trace_entry.encode(TRACE), "trace-wrong-signer"),
            (
                layout.trace_path(TRACE.key, layout.signer_id(BOB.public)),
                trace_entry.encode(trace_of(output=TREE.id, by=[BOB], size=TREE.size)).replace(b'"size":', b'"size":1'),
                "trace-bad-signature",
            ),
            (
                layout.trace_path(trace_of(env="2").key, signer(TRACE)),
                trace_entry.encode(TRACE),
                "trace-wrong-key",
            ),
        ],
    )
    def test_what_is_not_what_its_name_says_is_refused(
        self, server: Served, path: str, content: bytes, expected: str
    ) -> None:
        answer = server.ask("PUT", f"/{path}", {**AUTHORIZED, **ONLY_NEW}, content)
        assert (answer.status, reason(answer)) == (422, expected)
        assert files_below(server.folder) == set()
        assert f'writes_refused_total{{reason="{expected}"}} 1' in server.ask("GET", "/metrics").body.decode()

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [({}, "token-missing"), ({"Authorization": "Bearer wrong-but-of-a-good-length"}, "token-wrong")],
    )
    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_without_the_token_nothing_is_written(
        self, server: Served, method: str, headers: dict[str, str], expected: str
    ) -> None:
        server.put_new(PACK, CONTENT)
        for path in ("ac/" + "a" * 64, PACK, "nonsense"):
            answer = server.ask(method, f"/{path}", headers, b"x")
            assert (answer.status, reason(answer)) == (401, expected)
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert files_below(server.folder) == {PACK}

    def test_without_a_file_of_tokens_nobody_writes(self, tmp_path: Path) -> None:
        (tmp_path / "ac" / "aa").mkdir(parents=True)
        (tmp_path / "ac" / "aa" / ("a" * 64)).write_bytes(b"there")
        with served(tmp_path, READABLE) as server:
            for method in ("PUT", "DELETE"):
                answer = server.ask(method, f"/ac/{'a' * 64}", AUTHORIZED, b"x")
                assert (answer.status, reason(answer)) == (405, "read-only")
                assert answer.headers["allow"] == "GET, HEAD"
            assert server.ask("GET", f"/ac/{'a' * 64}").body == b"there"
        assert files_below(tmp_path) == {f"ac/aa/{'a' * 64}"}

    def test_reading_can_need_a_token_too(self, tmp_path: Path) -> None:
        settings = replace(WRITABLE, access=Access(Tokens([TOKEN]), Tokens([READ_TOKEN])))
        with served(tmp_path, settings) as server:
            server.put_new(PACK, CONTENT)
            reader = {"Authorization": f"Bearer {READ_TOKEN}"}
            for path in (f"/{PACK}", "/packs/", "/metrics", "/nonsense"):
                assert server.ask("GET", path).status == 401
            assert server.ask("GET", "/health").status == 200
            assert server.ask("GET", f"/{PACK}", reader).body == CONTENT
            assert server.ask("GET", f"/{PACK}", AUTHORIZED).body == CONTENT
            assert server.ask("DELETE", f"/{PACK}", reader).status == 401

    def test_other_methods_are_not_known(self, server: Served) -> None:
        for method in ("POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
            answer = server.ask(method, f"/{PACK}", AUTHORIZED)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT, DELETE")

    def test_what_was_removed_is_gone(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        assert server.ask("DELETE", f"/{PACK}", AUTHORIZED).status == 204
        assert server.ask("DELETE", f"/{PACK}", AUTHORIZED).status == 404
        assert server.put_new(PACK, CONTENT) == 201

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"If-None-Match": '"tag"'}, 412),
            ({"If-Match": "*"}, 412),
            ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
            ({"Content-Range": "bytes 0-1/2"}, 400),
            ({"Content-Encoding": "gzip"}, 415),
            ({"Expect": "miracles"}, 417),
        ],
    )
    def test_what_is_not_understood_is_not_done(self, server: Served, headers: dict[str, str], status: int) -> None:
        assert server.ask("PUT", f"/{PACK}", {**AUTHORIZED, **headers}, CONTENT).status == status
        assert files_below(server.folder) == set()

    def test_who_asks_before_sending_is_told(self, server: Served) -> None:
        head = f"PUT /{PACK} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\nExpect: 100-continue\r\n"
        allowed = f"{head}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode()
        with server.connected(allowed) as connection:
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(CONTENT)
            assert read_all(connection).startswith(b"HTTP/1.1 201 ")
        with server.connected(f"{head}\r\n".encode()) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")

    def test_a_body_in_chunks_is_taken(self, server: Served) -> None:
        parts = [CONTENT[at : at + 7000] for at in range(0, len(CONTENT), 7000)]
        assert server.ask("PUT", f"/{PACK}", AUTHORIZED, iter(parts)).status == 201
        assert server.ask("GET", f"/{PACK}").body == CONTENT

    def test_a_body_that_breaks_off_leaves_nothing(self, server: Served) -> None:
        head = put_head(PACK, len(CONTENT))
        with server.connected(head + CONTENT[:-1]):
            pass
        chunked = (
            f"PUT /{PACK} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert b" 400 " in server.raw(chunked.encode() + b"5\r\nhello\r\nnonsense\r\n").partition(b"\r\n")[0]
        assert server.put_new(PACK, CONTENT) == 201
        assert files_below(server.folder) == {PACK}

    def test_of_many_who_come_at_once_one_is_first(self, server: Served) -> None:
        trace = trace_of()
        path = layout.trace_path(trace.key, signer(trace))
        claims = [trace_entry.encode(replace(trace, seconds=float(at))) for at in range(16)]
        barrier = threading.Barrier(len(claims))

        def write(content: bytes) -> int:
            barrier.wait()
            return server.put_new(path, content)

        with ThreadPoolExecutor(len(claims)) as pool:
            statuses = list(pool.map(write, claims))
        assert sorted(statuses) == [201, *[412] * (len(claims) - 1)]
        assert server.ask("GET", f"/{path}").body == claims[statuses.index(201)]
        assert files_below(server.folder) == {path}

    def test_of_two_who_are_sending_the_first_to_end_is_first(self, server: Served) -> None:
        path = f"ac/{'c' * 64}"
        sent = put_head(path, 6, "If-None-Match: *", "Connection: close")
        with server.connected(sent + b"fir") as first, server.connected(sent + b"sec") as second:
            second.sendall(b"ond")
            assert read_all(second).startswith(b"HTTP/1.1 201 ")
            first.sendall(b"sth")
            assert read_all(first).startswith(b"HTTP/1.1 412 ")
        assert server.ask("GET", f"/{path}").body == b"second"

    def test_readers_of_what_is_replaced_get_the_one_or_the_other(self, server: Served) -> None:
        path = f"ac/{'d' * 64}"
        contents = [bytes([at]) * 200_000 for at in range(8)]
        server.put(path, contents[0])
        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(server.put, path, content) for content in contents]
            reads = [pool.submit(server.ask, "GET", f"/{path}") for _ in range(40)]
            assert {write.result() for write in writes} == {204}
            assert {read.result().body for read in reads} <= set(contents)


class TestConfinement:
    """What is not an object of the layout cannot be named, in whatever spelling."""

    HEX = "0123456789abcdef" * 4
    TARGETS: Sequence[bytes] = (
        b"/../secret",
        b"/trees/../../secret",
        b"/trees/01/../../../secret",
        b"/%2e%2e/secret",
        b"/..%2fsecret",
        b"/%2e%2e%2fsecret",
        b"/%252e%252e%252fsecret",
        b"/..%5csecret",
        b"/..\\secret",
        b"/trees\\..\\..\\secret",
        b"/%00",
        b"/trees/%00/secret",
        b"/trees/%c0%ae%c0%ae/secret",
        b"/..;/secret",
        b"/./secret",
        b"//secret",
        b"///etc/passwd",
        b"/etc/passwd",
        b"/proc/self/environ",
        b"/.serving/",
        b"/.incoming/",
        b"/.hidden",
        b"/trees/.hidden",
        b"/cache-info.json/..",
        b"/cache-info.json?x",
        b"/cache-info.json#x",
        b"/cache-info.json/",
        b"/%63ache-info.json",
        b"/names/%2e%2e/" + HEX.encode(),
        b"/names/../" + HEX.encode(),
        b"/cas/../cas/" + HEX.encode(),
        b"/cas/%30123456789abcdef" + HEX.encode()[16:],
        b"http://host/../secret",
        b"file:///etc/passwd",
        b"http://host",
        b"*",
        b"secret",
        b"/" + b"a/" * 3000,
    )

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
    def test_nothing_but_objects_can_be_named(self, tmp_path: Path, method: bytes, target: bytes) -> None:
        (tmp_path / "secret").write_bytes(b"a secret")
        folder = tmp_path / "cache"
        (folder / "cas" / "01").mkdir(parents=True)
        for inside in (folder / "secret", folder / ".hidden", folder / "cas" / "01" / self.HEX):
            inside.write_bytes(b"a secret")
        (folder / layout.INFO).write_bytes(b"a secret")
        before = files_below(tmp_path)
        with served(folder) as server:
            head = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            answer = server.raw(head + f"Authorization: Bearer {TOKEN}\r\nContent-Length: 1\r\n\r\nx".encode())
        assert answer.split(b" ")[1] in {b"404", b"400"}
        assert b"secret" not in answer.partition(b"\r\n\r\n")[2]
        assert files_below(tmp_path) == before

    @pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n", b"\t", b"\x1b", b"\xff"])
    def test_odd_bytes_in_a_target_lead_nowhere(self, server: Served, byte: bytes) -> None:
        server.put_new(PACK, CONTENT)
        answer = server.raw(b"GET /" + PACK.encode() + byte + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert CONTENT[:100] not in answer

    def test_links_are_not_followed(self, server: Served, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        name = PACK.rpartition("/")[2]
        (outside / name).write_bytes(CONTENT)
        packs = server.folder / "packs"
        packs.mkdir()
        (packs / name[:2]).symlink_to(outside)
        assert server.ask("GET", f"/{PACK}").status == 404
        assert server.ask("GET", f"/packs/{name[:2]}/").status == 404
        assert server.ask("DELETE", f"/{PACK}", AUTHORIZED).status == 404
        assert server.put(PACK, CONTENT) == 500
        assert files_below(outside) == {name}
        (packs / name[:2]).unlink()
        (packs / name[:2]).mkdir()
        (packs / name[:2] / name).symlink_to(outside / name)
        assert server.ask("GET", f"/{PACK}").status == 404
        assert server.ask("HEAD", f"/{PACK}").status == 404
        assert json.loads(server.ask("GET", f"/packs/{name[:2]}/").body) == []
        assert server.put_new(PACK, CONTENT) == 201
        assert (outside / name).read_bytes() == CONTENT
        assert not (packs / name[:2] / name).is_symlink()

    def test_what_is_no_plain_file_is_not_there(self, server: Served) -> None:
        place = server.folder / PACK
        place.parent.mkdir(parents=True)
        os.mkfifo(place)
        assert server.ask("GET", f"/{PACK}").status == 404
        place.unlink()
        place.mkdir()
        assert server.ask("GET", f"/{PACK}").status == 404

    def test_what_is_being_written_cannot_be_seen(self, server: Served) -> None:
        head = put_head(PACK, len(CONTENT))
        with server.connected(head + CONTENT[:200_000]):
            while not unfinished(server.folder):
                pass
            assert server.ask("GET", f"/{PACK}").status == 404
            assert server.ask("GET", "/packs/").status == 404
            (file,) = unfinished(server.folder)
            assert server.ask("GET", f"/.serving/{file.parent.name}/{file.name}").status == 404


class TestOperation:
    def test_health_is_told(self, server: Served) -> None:
        answer = server.ask("GET", "/health")
        assert (answer.status, json.loads(answer.body)) == (200, {"schema": 1, "status": "ok", "writable": True})
        assert server.ask("HEAD", "/health").status == 200

    def test_a_server_whose_folder_is_gone_is_not_well(self, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        with served(tmp_path / "cache", READABLE) as server:
            (tmp_path / "cache").rmdir()
            answer = server.ask("GET", "/health")
        assert (answer.status, reason(answer)) == (503, "folder")

    def test_everything_is_counted(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        server.put_new(PACK, CONTENT)
        server.ask("GET", f"/{PACK}", {"Range": "bytes=0-99"})
        server.ask("PROPFIND", "/packs/")
        server.raw(b"nonsense\r\n\r\n")
        told = server.ask("GET", "/metrics")
        assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = told.body.decode().splitlines()
        for line in (
            'forge_cache_requests_total{method="PUT",status="201"} 1',
            'forge_cache_requests_total{method="PUT",status="412"} 1',
            'forge_cache_requests_total{method="GET",status="206"} 1',
            'forge_cache_requests_total{method="other",status="405"} 1',
            'forge_cache_requests_total{method="other",status="400"} 1',
            'forge_cache_objects_written_total{kind="packs"} 1',
            'forge_cache_writes_refused_total{reason="already-there"} 1',
            f"forge_cache_received_bytes_total {len(CONTENT)}",
        ):
            assert line in lines
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(values["forge_cache_start_time_seconds"]) > 1.7e9
        assert int(values["forge_cache_sent_bytes_total"]) >= 100

    def test_every_exchange_is_told(self, server: Served) -> None:
        server.put_new(PACK, CONTENT)
        server.ask("GET", "/nonsense")
        eventually(lambda: len(server.recorder.exchanges) == 2)
        get, put = sorted(server.recorder.exchanges, key=lambda one: one.method)
        assert (put.client, put.method, put.target, put.status) == ("127.0.0.1", "PUT", f"/{PACK}", 201)
        assert (get.status, get.reason) == (404, "not-found")

    @pytest.mark.parametrize(
        "sent",
        [
            b"\0\1\2\3\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        ],
    )
    def test_what_is_no_request_is_answered_briefly_and_closed(self, server: Served, sent: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            answer = server.raw(sent)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
            assert b"Traceback" not in answer
        assert server.ask("GET", "/health").status == 200


class TestTransport:
    """What tests/conformance/test_cache_transport.py asks of every transport, under names that a cache has."""

    @pytest.fixture
    def transport(self, server: Served) -> Iterator[WebTransport]:
        one = server.transport()
        yield one
        one.close()

    def test_what_was_put_is_there_whole_and_in_parts(self, transport: WebTransport) -> None:
        assert transport.put(PACK, CONTENT)
        assert transport.size(PACK) == len(CONTENT)
        assert read_whole(transport, PACK, len(CONTENT)) == CONTENT
        for start, length in ((0, 1), (1000, 5000), (len(CONTENT) - 10, 10)):
            with transport.open(PACK, Span(start, length)) as body:
                assert read_exactly(body, "", PACK, length) == CONTENT[start : start + length]

    @pytest.mark.parametrize("start", [len(CONTENT) - 5, len(CONTENT), len(CONTENT) + 5])
    def test_a_part_beyond_the_end_is_too_short(self, transport: WebTransport, start: int) -> None:
        transport.put(PACK, CONTENT)
        with pytest.raises(CacheError) as failed, transport.open(PACK, Span(start, 10)) as body:
            read_exactly(body, "", PACK, 10)
        assert failed.value.reason == "cache-truncated"

    def test_what_is_not_there_is_missing(self, transport: WebTransport) -> None:
        assert transport.size(PACK) is None
        with pytest.raises(CacheError) as failed:
            read_whole(transport, PACK, 100)
        assert (failed.value.reason, failed.value.fault) == ("cache-missing", CacheFault.MISSING)
        assert transport.entries("trees/ab") == []
        transport.delete(PACK)

    def test_what_is_there_is_replaced_only_where_that_is_meant(self, transport: WebTransport) -> None:
        path = layout.index_path(ROOT, "0" * 16)
        first, second, third = (compress(word) for word in (b"first", b"second", b"third"))
        assert transport.put(path, first)
        assert not transport.put(path, second)
        assert read_whole(transport, path, 100) == first
        assert transport.put(path, third, if_absent=False)
        assert read_whole(transport, path, 100) == third

    def test_a_folder_lists_what_lies_directly_in_it(self, transport: WebTransport) -> None:
        trees = [TreeId(digit * 64) for digit in "123"]
        for name, tree in zip(("zig", "zig", "libstdc++"), trees, strict=True):
            transport.put(layout.name_path(name, tree), tree.encode())
        listed = transport.entries("names/zig")
        assert {(one.name, one.size) for one in listed} == {(trees[0], 64), (trees[1], 64)}
        assert all(one.modified > 1.7e9 for one in listed)
        expected = {("zig", True), ("libstdc++", True)}
        assert {(one.name, one.is_folder) for one in transport.entries("names")} == expected

    def test_what_was_deleted_is_gone(self, transport: WebTransport) -> None:
        transport.put(PACK, CONTENT)
        transport.delete(PACK)
        assert transport.size(PACK) is None
        assert transport.put(PACK, CONTENT)

    def test_an_object_longer_than_it_may_be_is_not_read_on(self, transport: WebTransport) -> None:
        transport.put(PACK, CONTENT)
        with pytest.raises(CacheError) as failed:
            read_whole(transport, PACK, len(CONTENT) - 1)
        assert failed.value.reason == "cache-too-large"


class TestCaches:
    @pytest.mark.parametrize("care", list(PushMode))
    def test_what_is_pushed_is_pulled(self, server: Served, tmp_path: Path, care: PushMode) -> None:
        transport = server.transport()
        writer = CacheWriter(transport)
        assert writer.ensure_info(CacheInfo()) == CacheInfo()
        for _ in range(2):
            writer.push([FILES.item], [TRACE], {ROOT: [TRACE]}, signer=ALICE.public, mode=care)
        reader = CacheReader(transport, [ALICE.public])
        sink = CheckingSink()
        assert reader.fetch_tree(TREE.id, sink, tmp_path / "partial", size=TREE.size) == TREE
        assert sink.has_all_of(TREE)
        assert list(reader.read_index(ROOT, signer(TRACE)).traces) == [TRACE.key]
        transport.close()
        assert {path.partition("/")[0] for path in files_below(server.folder)} == {
            "cache-info.json", "index", "maps", "names", "packs", "traces", "trees"
        }  # fmt: skip

    def test_what_has_rotted_is_mended(self, server: Served, tmp_path: Path) -> None:
        transport = server.transport()
        CacheWriter(transport).push([FILES.item])
        for pack in (server.folder / "packs").rglob("*"):
            if pack.is_file():
                pack.write_bytes(bytes(pack.stat().st_size))
        CacheWriter(transport).push([FILES.item], mode=PushMode.OVERWRITE)
        sink = CheckingSink()
        CacheReader(transport, ()).fetch_tree(TREE.id, sink, tmp_path / "partial")
        assert sink.has_all_of(TREE)
        transport.close()

    def test_the_next_version_finds_what_is_there(self, server: Served) -> None:
        transport = server.transport()
        first = CacheWriter(transport).push([FILES.item])
        changed = replace(FILES, content={**FILES.content, "new": b"a little"}, name="thing-1.1")
        second = CacheWriter(transport).push([changed.item])
        assert second.sent_bytes < first.sent_bytes / 10
        transport.close()

    def test_what_is_old_can_be_collected(self, server: Served) -> None:
        transport = server.transport()
        writer = CacheWriter(transport)
        writer.ensure_info(CacheInfo())
        writer.push([FILES.item], [TRACE], {ROOT: [TRACE]}, signer=ALICE.public)
        for later in (2 * GRACE, 4 * GRACE):
            now = time.time() + later
            planned = plan_collection(transport, now, older_than=GRACE)
            assert planned.problems == ()
            collect(transport, planned, clock=lambda now=now: now)  # type: ignore[misc]
        transport.close()
        assert files_below(server.folder) == {"cache-info.json", "collection.json", "collection-unnamed.json"}

    def test_a_cache_can_be_kept_in_results_and_blobs(self, server: Served, tmp_path: Path) -> None:
        transport = BazelTransport(server.url, HttpSettings(token=TOKEN))
        CacheWriter(transport).push([FILES.item])
        sink = CheckingSink()
        CacheReader(transport, ()).fetch_tree(TREE.id, sink, tmp_path / "partial", size=TREE.size)
        assert sink.has_all_of(TREE)
        transport.close()
        assert {path.partition("/")[0] for path in files_below(server.folder)} == {"ac", "cas"}

    def test_a_folder_and_a_server_are_one_cache(self, server: Served) -> None:
        for path, content in OBJECTS.items():
            server.put_new(path, content)
        transport = server.transport()
        for path, content in OBJECTS.items():
            assert read_whole(transport, path, len(content)) == content
        transport.close()
