"""What tests of caches share: trees from dictionaries, sinks that check, signed traces, a server on this machine."""

from __future__ import annotations

import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO

from mmojo_forge.cache.failure import CacheError
from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.cache.write.chunk_writer import PushItem
from mmojo_forge.model import canonical
from mmojo_forge.model.derivation import Derivation, action_key
from mmojo_forge.model.digest import BlobDigest, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.signature import PrivateKey
from mmojo_forge.model.trace import Trace, TraceOutput, TraceSignature
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry

ALICE = PrivateKey("alice", b"a" * 32)
BOB = PrivateKey("bob", b"b" * 32)
MALLORY = PrivateKey("mallory", b"m" * 32)


@dataclass
class Files:
    """A tree and its content. Paths that end in `*` are executable."""

    content: Mapping[str, bytes]
    name: str = "thing-1.0"
    opened: list[str] = field(default_factory=list)

    @property
    def tree(self) -> Tree:
        entries = {}
        for path, data in self.content.items():
            plain = path.rstrip("*")
            for at, letter in enumerate(plain):
                if letter == "/":
                    entries[plain[:at]] = TreeEntry(plain[:at], EntryKind.DIRECTORY)
            kind = EntryKind.EXECUTABLE if path.endswith("*") else EntryKind.FILE
            entries[plain] = TreeEntry(plain, kind, BlobDigest(blake3_hex(data)), len(data))
        return Tree.of(entries.values())

    @property
    def item(self) -> PushItem:
        return PushItem(self.tree, self.name, self.open)

    @contextmanager
    def open(self, entry: TreeEntry) -> Iterator[BinaryIO]:
        self.opened.append(entry.path)
        yield io.BytesIO(self._data(entry))

    def read_at(self, entry: TreeEntry, offset: int, size: int) -> bytes:
        return self._data(entry)[offset : offset + size]

    def _data(self, entry: TreeEntry) -> bytes:
        return self.content[entry.path] if entry.path in self.content else self.content[f"{entry.path}*"]


@dataclass
class CheckingSink:
    """Keeps what it is given, and insists that it is what it is said to be, wanted, and given once."""

    has: set[BlobDigest] = field(default_factory=set)
    got: dict[BlobDigest, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lacking(self, files: Sequence[TreeEntry]) -> set[BlobDigest]:
        return {file.digest for file in files if file.digest is not None} - self.has

    def take_small(self, files: Sequence[tuple[TreeEntry, bytes]]) -> None:
        for file, content in files:
            self._take(file, content)

    def take_file(self, file: TreeEntry, path: Path) -> None:
        self._take(file, path.read_bytes())

    def _take(self, file: TreeEntry, content: bytes) -> None:
        assert file.digest is not None
        assert blake3_hex(content) == file.digest
        assert len(content) == file.size
        with self.lock:
            assert file.digest not in self.got
            assert file.digest not in self.has
            self.got[file.digest] = content

    def has_all_of(self, tree: Tree) -> bool:
        return {file.digest for file in tree.files()} <= set(self.got) | self.has


def trace_of(
    name: str = "thing", *, by: Sequence[PrivateKey] = (ALICE,), output: str = "1", size: int = 5, env: str = ""
) -> Trace:
    """A trace of a derivation, signed."""
    preimage = Derivation(name, "builtin:copy", (), {"X": env}, {}).preimage({})
    tree = TreeId(output if is_hex_digest(output) else blake3_hex(output.encode()))
    trace = Trace(
        action_key(preimage), name, preimage, {"out": TraceOutput(tree, size)}, by[0].name if by else "nobody"
    )
    return signed(trace, by)


def signed(trace: Trace, by: Sequence[PrivateKey]) -> Trace:
    signatures = tuple(TraceSignature(str(key.public), key.sign(trace.fingerprint())) for key in by)
    return Trace(trace.key, trace.name, trace.preimage, trace.outputs, trace.builder, signatures=signatures)


def reason(work: Callable[[], object]) -> str:
    """Why it failed; the test fails where it did not."""
    try:
        work()
    except CacheError as error:
        return error.reason
    raise AssertionError("it did not fail")


def rewrite(transport: Transport, path: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON object in a cache."""
    with transport.open(path) as body:
        document = json.loads(body.read(1 << 30))
    transport.put(path, canonical.encode(change(document)), if_absent=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of files: ranges, listings as nginx makes them, PUT and DELETE with a token."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        odd = self.server.odd
        if odd is not None and odd(self):
            return
        path = self.server.root / self.path.lstrip("/")
        if self.path.endswith("/"):
            self._list(path)
        elif path.is_file():
            self._send_file(path.read_bytes())
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.server.asked.append((self.command, self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.odd is not None and self.server.odd(self):
            return
        path = self.server.root / self.path.lstrip("/")
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer(401)
        elif self.headers.get("If-None-Match") == "*" and path.exists():
            self.answer(412)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.answer(201)

    def do_DELETE(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        found = path.is_file()
        path.unlink(missing_ok=True)
        self.answer(204 if found else 404)

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def _send_file(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None or self.server.ignores_ranges:
            self.answer(200, {}, content)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        if not part:
            self.answer(416)
            return
        self.answer(206, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}, part)

    def _list(self, path: Path) -> None:
        if not path.is_dir() or self.server.hides_folders:
            self.answer(403 if self.server.hides_folders else 404)
            return
        rows: list[dict[str, str | int]] = []
        for one in path.iterdir():
            row: dict[str, str | int] = {"name": one.name, "mtime": formatdate(one.stat().st_mtime, usegmt=True)}
            rows.append(
                {**row, **({"type": "directory"} if one.is_dir() else {"type": "file", "size": one.stat().st_size})}
            )
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(rows).encode())


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `root`. `odd` is asked first, and says whether it has answered itself."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.asked: list[tuple[str, str]] = []
        self.odd: Callable[[Handler], bool] | None = None
        self.ignores_ranges = False
        self.hides_folders = False
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(root: Path) -> Iterator[FileServer]:
    """A server while the body runs."""
    with FileServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def drip(exchange: Handler, seconds: float = 0.02) -> bool:
    """Send a byte now and then, for ever."""
    exchange.answer(200, {"Content-Length": "1000000"})
    try:
        while not exchange.server.closing.is_set():
            exchange.wfile.write(b"x")
            exchange.wfile.flush()
            time.sleep(seconds)
    except OSError:
        pass
    exchange.close_connection = True
    return True
