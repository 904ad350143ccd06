"""Packaged servers for tests: made by `forge package`, started on a free port, stopped whatever happens."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.built import find, server_program
from tests.support.serve import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 240
# The port comes from the environment, so that one package serves every test.
ARGUMENTS = "--host 127.0.0.1 --port ${TEST_PORT:-8080}\n--ctx-size 512 --parallel 1 --threads 2 --no-warmup\n"


def package(program: Path, out: Path, *more: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished `forge package PROGRAM -o OUT …`, which must have ended with `expect`."""
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "package", str(program), "-o", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command += [str(word) for word in more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def the_server() -> Path:
    """The server that runs everywhere; where that was not built, a native one."""
    return find("mmojo-server.ape", "FORGE_TEST_APE") or server_program()


def start_of(program: Path) -> list[str | Path]:
    """The command that starts a program; what no kernel knows is for the shell."""
    with program.open("rb") as stream:
        return [program] if stream.read(4) == b"\x7fELF" else ["sh", program]


def devices(program: Path, environment: dict[str, str], *before: object) -> subprocess.CompletedProcess[str]:
    """What `--list-devices` says, started by `before` if that is given."""
    command = [str(word) for word in (*before, *start_of(program), "--list-devices")]
    given = {**os.environ, **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)


@dataclass(frozen=True)
class Running:
    """A server that answers. `pid` is its own: shells and launchers become it."""

    address: str
    pid: int
    log: Path
    context: ssl.SSLContext | None
    seconds: float

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, content and headers of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {**(headers or {})})
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120, context=self.context) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    certificate: Path | None = None,
    cwd: Path | None = None,
) -> Iterator[Running]:
    """Starts a packaged server and waits until its model is loaded."""
    port = free_port()
    context = ssl.create_default_context(cafile=str(certificate)) if certificate else None
    address = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    given = {**os.environ, **(environment or {}), "TEST_PORT": str(port)}
    begin = time.monotonic()
    with (
        log.open("wb") as to,
        subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=to, stderr=to, env=given, cwd=cwd
        ) as process,
    ):
        try:
            while not _is_ready(address, context):
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() - begin < START_SECONDS, log.read_text(errors="replace")
                time.sleep(0.05)
            yield Running(address, process.pid, log, context, time.monotonic() - begin)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_ready(address: str, context: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for this machine that signs itself, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
