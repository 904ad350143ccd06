"""The process in which `VariedExecutor` runs a build: it reads one request, runs it, and answers.

It inherits its environment, umask, folder, user and host name, and sets its CPUs and personality itself. The first line
of stdin is the request in JSON; the end of stdin means that the build has to stop. Stdout gets the build's output, a
third descriptor gets the result in JSON, and stderr gets error messages.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mmojo_forge.errors import ForgeError
from mmojo_forge.executor import personality
from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
from mmojo_forge.executor.request import BuildRequest, ExecutorError

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(answer: int) -> None:
    """Run the request on stdin, and write the result to the descriptor `answer`."""
    # Ctrl-C reaches every process of the terminal. The parent decides what to do, and waits for this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    document = json.loads(sys.stdin.buffer.readline())
    try:
        _take_on(document["cpus"], document["personality"])
        reply: dict[str, Any] = _run(document) if document["request"] else {"possible": True}
    except ForgeError as error:
        reply = {"error": {"message": error.message, "detail": error.detail, "reason": error.reason}}
    except OSError as error:
        reply = {
            "error": {
                "message": f"build in a varied host environment: {error}",
                "detail": "",
                "reason": "executor-died",
            }
        }
    with os.fdopen(answer, "wb") as file:
        file.write(json.dumps(reply).encode())


def _run(document: dict[str, Any]) -> dict[str, Any]:
    executor = BubblewrapExecutor(Path(document["bwrap"]), document["personality"])
    result = executor.run(BuildRequest.from_json(document["request"]), cancellation=sys.stdin, on_output=_pass_on)
    return {
        "outcome": result.outcome.value,
        "exit_code": result.exit_code,
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _take_on(cpus: list[int], flags: int) -> None:
    try:
        os.sched_setaffinity(0, cpus or os.sched_getaffinity(0))
    except OSError as error:
        raise ExecutorError(f"run on CPUs {cpus}: {error.strerror}", reason="no-such-host-environment") from error
    why = personality.take_on(flags)
    # Where the kernel forbids the usual personality, builds run without it.
    if why and flags != personality.USUAL:
        raise ExecutorError(
            f"set personality {flags:#x}: {why}",
            detail="A container's system call filter forbids it.",
            reason="no-such-host-environment",
        )


def _pass_on(chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(1, view) :]
