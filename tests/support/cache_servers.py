"""Servers on this machine that hold caches: one that speaks Bazel's protocol, one that speaks S3, nginx."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import requests

from tests.support.serve import free_port

HAS_NGINX = shutil.which("nginx") is not None
_START_SECONDS = 60
_NAME = re.compile(r"/(?:.*/)?(ac|cas)/([0-9a-f]{64})")
_EMPTY = sha256(b"").hexdigest()


class BazelHandler(http.server.BaseHTTPRequestHandler):
    """As bazel-remote answers: results are checked and rewritten, and there only while their blobs are; blobs are
    checked; ranges are ignored; nothing is deleted or listed."""

    protocol_version = "HTTP/1.1"
    server: BazelServer

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        found = _NAME.fullmatch(self.path)
        if found is None:
            self._answer(400)
        elif found[1] == "cas":
            content = self.server.blobs.get(found[2], b"" if found[2] == _EMPTY else None)
            self._answer(404) if content is None else self._answer(200, content)
        else:
            self._get_result(found[2])

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.server.asked.append((self.command, self.path))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        found = _NAME.fullmatch(self.path)
        if found is None:
            self._answer(400)
        elif found[1] == "cas":
            right = sha256(content).hexdigest() == found[2]
            if right:
                self.server.blobs[found[2]] = content
            self._answer(200 if right else 400)
        else:
            self._put_result(found[2], content)

    def do_DELETE(self) -> None:
        self._answer(405)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def _get_result(self, name: str) -> None:
        result = self.server.results.get(name)
        blobs = [file["digest"]["hash"] for file in result["outputFiles"]] if result else []
        if result is None or not all(blob == _EMPTY or blob in self.server.blobs for blob in blobs):
            self._answer(404)
        elif self.headers.get("Accept") != "application/json":
            self._answer(200, b"\x12\x00 protocol buffers")
        else:
            self._answer(200, json.dumps(result, indent=1).encode())

    def _put_result(self, name: str, content: bytes) -> None:
        try:
            assert self.headers["Content-Type"] == "application/json"
            result = json.loads(content)
            assert set(result) <= {"outputFiles", "exitCode"}
            for file in result["outputFiles"]:
                assert set(file) == {"path", "digest"}
                assert file["path"]
                assert not file["path"].startswith("/")
                assert re.fullmatch("[0-9a-f]{64}", file["digest"]["hash"])
                # As protocol buffers are written in JSON: numbers of 64 bits as text, and zeros not at all.
                if int(file["digest"]["sizeBytes"]) == 0:
                    assert file["digest"]["hash"] == _EMPTY
                    del file["digest"]["sizeBytes"]
        except (AssertionError, ValueError, KeyError, TypeError):
            self._answer(400)
            return
        self.server.results[name] = {**result, "executionMetadata": {"worker": "127.0.0.1"}}
        self._answer(200)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class BazelServer(http.server.ThreadingHTTPServer):
    """A Bazel cache in memory, whose blobs and results can be evicted one without the other."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BazelHandler)
        self.blobs: dict[str, bytes] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"bazel+http://127.0.0.1:{self.server_address[1]}/instance"


@contextmanager
def bazel_server() -> Iterator[BazelServer]:
    """A server while the body runs."""
    with BazelServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location / {{
            autoindex on;
            autoindex_format json;
            {write}
        }}
    }}
}}
"""
_NGINX_WRITE = """
            dav_methods PUT DELETE;
            create_full_put_path on;
            # nginx does not know If-None-Match in a PUT.
            set $asked "$request_method $http_if_none_match";
            if (-e $request_filename) { set $asked "$asked there"; }
            if ($asked = "PUT * there") { return 412; }
"""


@contextmanager
def nginx(root: Path, folder: Path, *, writable: bool = True) -> Iterator[str]:
    """The URL of an nginx that serves `root` while the body runs; `folder` is for what it keeps itself."""
    folder.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    text = _NGINX.format(folder=folder, root=root, port=port, write=_NGINX_WRITE if writable else "")
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    with _running(command, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3_server() -> Iterator[Mapping[str, str]]:
    """The environment by which an S3 server is used while the body runs. It has a bucket `cache`."""
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        url = f"http://127.0.0.1:{port}"
        requests.put(f"{url}/cache", timeout=10).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    # A file: nobody empties a pipe, and servers tell of every request.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            _await(process, port, said)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said.seek(0)
            raise AssertionError(said.read()[-3000:].decode(errors="replace"))
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not listen")
