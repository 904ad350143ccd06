"""Start a llama server on a random model, ask for a completion, stop it: `python tests/serve.py COMMAND…`.

Prints the completion's token count; exits non-zero if the server did not answer as it must.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOKENS = 8
START_SECONDS = 240


def free_port() -> int:
    """A port of the loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def complete(command: Sequence[str], model: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The server's answer to one completion request; the server is stopped whatever happens."""
    port = free_port()
    arguments = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-c", "256", "-t", "2", "--no-warmup"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        _await_health(process, port)
        question = {"prompt": "Once upon a time", "n_predict": TOKENS, "temperature": 0, "seed": 1, "ignore_eos": True}
        return _ask(port, question)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _await_health(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = process.stdout.read().decode(errors="replace") if process.stdout else ""
            raise SystemExit(f"the server ended with {process.returncode}:\n{said[-3000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise SystemExit(f"the server did not answer within {START_SECONDS} s")


def _ask(port: int, question: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=240) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def main() -> int:
    """`serve.py MODEL COMMAND…`."""
    answer = complete(sys.argv[2:], Path(sys.argv[1]))
    print(f"{answer['tokens_predicted']} tokens: {answer['content']!r}")
    return 0 if answer["tokens_predicted"] == TOKENS else 1


if __name__ == "__main__":
    raise SystemExit(main())
