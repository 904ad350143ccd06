"""Runs builds in a varied host environment. `forge check` uses this to show that the environment does not matter.

    forge ─▶ bwrap with another uid and host name ─▶ forge's executor, in another environment ─▶ bwrap ─▶ builder

The inner executor runs in its own process, because umask, environment, CPUs and personality belong to a whole process.
The sandbox's contract says that none of these reach the builder, and `forge check` verifies that.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmojo_forge.executor import availability
from mmojo_forge.executor.personality import USUAL
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal, ExecutorError, Mount

_CHUNK = 1 << 16
_TAIL = 2000
_REFUSED = "no-such-host-environment"
# The exit codes of a killed child: its own, or the one that bwrap passes on.
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
# The child first writes one blank to the answer. After that, a failure is not the host environment's fault.
_CHILD = (
    "import json, os, sys; os.write(int(sys.argv[2]), b' '); sys.path[:] = json.loads(sys.argv[1]); "
    "from mmojo_forge.executor.varied_process import main; main(int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class HostEnvironment:
    """The properties of the process that builds.

    `environment` is its whole environment. `cpus` are the CPUs it may use; empty means all. `personality` has the flags
    of personality(2), for the build too. For `uid` and `hostname`, None means those of this user and machine. `mounts`
    and `variables` are added to the sandbox's inputs and environment.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    umask: int = 0o022
    folder: str = "/"
    cpus: tuple[int, ...] = ()
    personality: int = USUAL
    uid: int | None = None
    hostname: str | None = None
    mounts: tuple[Mount, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


class VariedExecutor:
    """The Executor of this machine, in the given host environment. Safe to share between threads."""

    def __init__(self, host_environment: HostEnvironment, program: Path | None = None) -> None:
        self._host_environment = host_environment
        self._program = program

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        """The result; see Executor. Raises `no-such-host-environment` if this machine refuses the environment."""
        request = replace(
            request,
            mounts=(*request.mounts, *self._host_environment.mounts),
            env={**self._host_environment.variables, **request.env},
        )
        answer = self._ask(request.to_json(), cancellation, on_output)
        if "error" in answer:
            error = answer["error"]
            prefix = f"build {request.name} in a varied host environment: " if error["reason"] == _REFUSED else ""
            raise ExecutorError(f"{prefix}{error['message']}", detail=error["detail"], reason=error["reason"])
        return BuildResult(BuildOutcome(answer.pop("outcome")), **answer)

    def probe(self) -> str:
        """Why this machine refuses the host environment, or "" if it accepts it. Raises ExecutorError (`no-bwrap`)."""
        answer = self._ask(None, None, None)
        message: str = answer["error"]["message"] if "error" in answer else ""
        return message

    def _ask(
        self,
        request: Mapping[str, Any] | None,
        cancellation: CancelSignal | None,
        on_output: Callable[[bytes], None] | None,
    ) -> dict[str, Any]:
        """The child's answer. Without a request, the child only adopts its host environment.

        If bwrap cannot start the child, the answer is a refusal. Raises ExecutorError (`cannot-spawn`,
        `executor-died`) if there is no answer for another reason.
        """
        with ExitStack() as stack:
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            complaints = os.memfd_create("complaints", os.MFD_CLOEXEC)
            stack.callback(os.close, complaints)
            with ExitStack() as child:
                child.callback(os.close, writing)
                bwrap = str(availability.find_bubblewrap(self._program).path)
                process = stack.enter_context(self._spawn(bwrap, writing, complaints))
            process_settings = {"cpus": self._host_environment.cpus, "personality": self._host_environment.personality}
            _send(process, {"request": request, "bwrap": bwrap, **process_settings})
            stack.callback(_end, process)
            _follow(process, cancellation, on_output)
            text = b"".join(iter(lambda: os.read(reading, _CHUNK), b""))
            process.wait()
            said = os.pread(complaints, _TAIL, max(0, os.fstat(complaints).st_size - _TAIL)).decode(errors="replace")
        if not text and process.returncode not in _KILLED and self._outer_command(bwrap):
            return {"error": _refusal(said)}
        if not text.strip():
            raise ExecutorError(
                f"build in a varied host environment: the process that runs the build ended with {process.returncode}",
                detail=said.strip() or "Someone killed it, or the kernel did because memory ran out.",
                reason="executor-died",
            )
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _spawn(self, bwrap: str, answer: int, complaints: int) -> subprocess.Popen[bytes]:
        try:
            return self._popen(bwrap, answer, complaints)
        except OSError as error:
            raise ExecutorError(
                f"build in a varied host environment: cannot start a process: {error}",
                detail="Too many processes or open files, or too little memory. Run fewer builds at once.",
                reason="cannot-spawn",
            ) from error

    def _popen(self, bwrap: str, answer: int, complaints: int) -> subprocess.Popen[bytes]:
        # The child starts in another folder, where relative paths would mean something else.
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        argv = [sys.executable, "-I", "-S", "-c", _CHILD, path, str(answer)]
        return subprocess.Popen(
            [*self._outer_command(bwrap), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=dict(self._host_environment.environment),
            cwd=self._host_environment.folder,
            umask=self._host_environment.umask,
            pass_fds=(answer,),
        )

    def _outer_command(self, bwrap: str) -> list[str]:
        uid, hostname = self._host_environment.uid, self._host_environment.hostname
        if uid is None and hostname is None:
            return []
        words = [bwrap, "--dev-bind", "/", "/", "--die-with-parent", "--unshare-user"]
        if uid is not None:
            words += ["--uid", str(uid), "--gid", str(uid)]
        if hostname is not None:
            words += ["--unshare-uts", "--hostname", hostname]
        return [*words, "--"]


def _refusal(said: str) -> dict[str, str]:
    """The answer in place of a child that could not start, because bwrap could not make its user or host name."""
    cause = said.strip().rpartition("\n")[2]
    return {
        "message": f"this machine forbids nested user namespaces{f': {cause}' if cause else ''}",
        "detail": "forge needs them to build as another user and under another host name.",
        "reason": _REFUSED,
    }


def _send(process: subprocess.Popen[bytes], document: Mapping[str, Any]) -> None:
    # A child that could not start has closed its end. The caller notices that from the missing answer.
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(document).encode() + b"\n")
        process.stdin.flush()


def _follow(
    process: subprocess.Popen[bytes], cancellation: CancelSignal | None, on_output: Callable[[bytes], None] | None
) -> None:
    """Pass the build's output on until it ends. On a cancellation, tell the child to stop the build."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    if cancellation is not None:
        poll.register(cancellation.fileno(), select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != output:
                poll.unregister(descriptor)
                _tell_to_stop(process)
                continue
            data = os.read(output, _CHUNK)
            if not data:
                return
            if on_output is not None:
                on_output(data)


def _tell_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Close the child's stdin, which makes it kill the build. Unlike a signal, this also works through bwrap."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    _tell_to_stop(process)
    assert process.stdout is not None
    while os.read(process.stdout.fileno(), _CHUNK):
        pass
    process.wait()
