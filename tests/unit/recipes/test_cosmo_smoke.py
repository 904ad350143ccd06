"""The questions that a server of Cosmopolitan's is asked once it is built, put to servers that get them wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SMOKE = REPOSITORY / "recipes" / "mmojo-server-cosmo" / "smoke" / "smoke.py"
# A server that is given its manners: how it starts, and what it answers.
SERVER = """
import http.server, json, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def answer(self, status, document):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({health}, {{}})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        {post}

    def log_message(self, *words):
        pass

{start}
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""
GOOD = 'self.answer(200, {"tokens": [], "content": "", "choices": []})'


def smoke(
    folder: Path, *, post: str = GOOD, health: int = 200, start: str = "", seconds: str = "20"
) -> subprocess.CompletedProcess[str]:
    server = folder / "server.py"
    server.write_text(SERVER.format(post=post, health=health, start=start))
    command: list[str | Path] = [sys.executable, SMOKE, folder / "report", seconds, sys.executable, server]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_server_that_answers_is_reported_on_without_anything_of_this_machine(tmp_path: Path) -> None:
    done = smoke(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report").read_text().splitlines() == [
        "/tokenize: 200",
        "/completion: 200",
        "/v1/completions: 200",
        "/v1/chat/completions: 200",
    ]


@pytest.mark.parametrize(
    ("manners", "cause"),
    [
        ({"post": 'self.answer(400, {"error": "bad request"})'}, "every question got HTTP 400"),
        ({"post": "self.answer(200, {})"}, "/completion was answered with 200"),
        ({"post": 'self.answer(200, b"\\xff no JSON")'}, "/tokenize was answered with 200"),
        ({"post": "import os; os._exit(139)"}, "/completion was answered with 0"),
        ({"start": "sys.exit(3)"}, "exit code 3 before it answered"),
        ({"health": 503, "seconds": "2"}, "does not say that it is well"),
    ],
    ids=["400", "nothing", "no JSON", "crash", "no start", "never well"],
)
def test_a_server_that_is_wrong_is_named_for_it(tmp_path: Path, manners: dict[str, str], cause: str) -> None:
    done = smoke(tmp_path, **manners)  # type: ignore[arg-type]
    assert done.returncode == 1
    [*_, last] = done.stderr.splitlines()
    assert last.startswith("smoke: not as expected: ")
    assert cause in done.stderr
    assert not (tmp_path / "report").exists()
