"""Runs a build in a bubblewrap sandbox, and supervises it until the last of its processes is dead.

    forge ──spawn──▶ bwrap (monitor) ──clone──▶ bwrap (pid 1) ──fork──▶ builder ──▶ …
      ◀── status pipe: pid of pid 1; exit code; end of file ──┘             │
      ◀── output pipe: stdout and stderr ───────────────────────────────────┘

1. bwrap starts, reports the pid of the sandbox's pid 1, sets the sandbox up, and waits for the system call filter.
2. Meanwhile forge opens a pidfd of pid 1, because a pid could be reused, and sets its resource limits. Then it writes
   the filter. If forge dies earlier, bwrap gets no filter and gives up.
3. When the builder exits, bwrap writes the exit code and exits, and the kernel kills pid 1 (`--die-with-parent`).
   At a limit or a cancellation forge kills pid 1 itself.
4. pid 1's pidfd becomes readable after the kernel has killed and reaped every process in its namespace. That includes
   a daemon that left its parent, ignores signals and holds the pipe open. Only then does forge read the rest of the
   output and return the result.

Everything happens in the thread that calls `run`, without a helper thread or process. A death signal is sent when the
*thread* that spawned the process ends. So the sandbox dies with forge, but not during a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import select
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from mmojo_forge.executor import availability, personality, sandbox, seccomp
from mmojo_forge.executor.build_log import BuildLog
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal, ExecutorError
from mmojo_forge.executor.sandbox import SandboxCommand
from mmojo_forge.executor.watch import SandboxMeter, Watch

_CHUNK = 1 << 16
_KILLED = 128 + signal.SIGKILL
_LAST_SIGNAL = 128 + 64
_NOT_EXECUTABLE = 127
_ENV = Path("/usr/bin/env")
# Python itself ignores the two excluded signals, and `subprocess` restores them in the child.
_REMEMBERED_SIGNALS = sorted(signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ})
# Fixed values, because shells and services have different limits. These are soft limits, so a build may raise them.
_RESOURCE_LIMITS = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 4096), (resource.RLIMIT_STACK, 8 << 20))


class BubblewrapExecutor:
    """The Executor of this machine. Its only state is the path of bwrap, so threads can share it.

    `flags` is the personality of its builds (personality(2)), as far as the kernel allows it.
    """

    def __init__(self, program: Path | None = None, flags: int = personality.USUAL) -> None:
        self._program = program
        self._flags = flags
        self._found: availability.Bubblewrap | None = None

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        """The result of the build; see Executor."""
        bwrap = self._find()
        with ExitStack() as stack:
            log = stack.enter_context(BuildLog(request.log, request.limits.log_bytes))
            run = stack.enter_context(_SupervisedRun(request, log, cancellation, on_output))
            try:
                with personality.taken_on(self._flags):
                    run.spawn(bwrap)
            except OSError as error:
                raise ExecutorError(
                    f"build {request.name}: cannot start bwrap: {error}",
                    detail="Too many processes or open files, or too little memory. Run fewer builds at once.",
                    reason="cannot-spawn",
                ) from error
            result = run.wait()
        if result is None:
            raise availability.explain_failure(request.name, bwrap, log.tail, sandbox.find_missing_source(request))
        return result

    def shell_command(self, request: BuildRequest, argv: tuple[str, ...] = ()) -> SandboxCommand:
        """The command that runs `argv`, or an interactive shell, in the sandbox of a finished request.

        The caller makes the command's descriptors inheritable and executes bwrap, or passes both to `subprocess`. The
        filter is already written. The shell runs in a new session, without job control, so that a build cannot inject
        input into the user's terminal.
        """
        bwrap = self._find()
        command = sandbox.build_command(
            request, disable_userns=bwrap.can_disable_userns, status=None, argv=argv or ("/bin/sh", "-i")
        )
        with os.fdopen(command.filter_pipe, "wb") as pipe:
            pipe.write(seccomp.build_filter(platform.machine()))
        command.argv = (str(bwrap.path), *command.argv[1:])
        return command

    def _find(self) -> availability.Bubblewrap:
        # No lock: two threads may both search, and find the same.
        if self._found is None:
            self._found = availability.find_bubblewrap(self._program)
        return self._found


class _SupervisedRun:
    """One sandbox from spawn to death. Leaving the context in any way kills the sandbox and waits until it is dead."""

    def __init__(
        self,
        request: BuildRequest,
        log: BuildLog,
        cancellation: CancelSignal | None,
        on_output: Callable[[bytes], None] | None,
    ) -> None:
        self._request = request
        self._log = log
        self._cancellation = cancellation
        self._on_output = on_output
        self._stack = ExitStack()
        self._poll = select.poll()
        self._watch = Watch(request)
        self._process: subprocess.Popen[bytes] | None = None
        self._output = self._status = self._filter_pipe = -1
        self._status_text = b""
        self._pid_one: int | None = None
        self._builder_exit: int | None = None
        self._verdict: BuildOutcome | None = None

    def __enter__(self) -> _SupervisedRun:
        return self

    def __exit__(self, *failure: object) -> None:
        with self._stack:
            if self._process is not None and self._process.returncode is None:
                self._on_output = None
                self._stop(BuildOutcome.CANCELLED)
                self._bury()

    def spawn(self, bwrap: availability.Bubblewrap) -> None:
        """Start bwrap, which waits for the filter before it runs the builder."""
        with ExitStack() as child:
            self._output, output = self._open_pipe(child)
            self._status, status = self._open_pipe(child)
            command = child.enter_context(
                sandbox.build_command(self._request, disable_userns=bwrap.can_disable_userns, status=status)
            )
            self._filter_pipe = command.filter_pipe
            self._stack.callback(self._close_filter_pipe)
            self._process = _spawn(bwrap, command, output)

    def wait(self) -> BuildResult | None:
        """The result, after every process is dead; None if bwrap could not set the sandbox up."""
        for descriptor in (self._output, self._status):
            self._poll.register(descriptor, select.POLLIN)
        if self._cancellation is not None:
            self._poll.register(self._cancellation.fileno(), select.POLLIN)
        while self._status != -1:
            # A stopped build has no more limits to check, so only its end can wake the poll.
            pause = self._watch.milliseconds_to_next_look() if self._verdict is None else None
            events = self._poll.poll(pause)
            for descriptor, _ in events:
                self._attend(descriptor)
            if not events:
                # The build pauses. Flush, so that the log survives if forge is killed.
                self._log.flush()
            if self._verdict is None:
                self._stop(self._watch.find_excess())
        self._bury()
        return self._judge()

    def _attend(self, descriptor: int) -> None:
        if descriptor == self._status:
            self._read_status()
        elif descriptor == self._output:
            self._read_output()
        else:
            self._forget(descriptor)
            self._stop(BuildOutcome.CANCELLED)

    def _forget(self, descriptor: int) -> None:
        # The descriptor is not registered yet if an exception came between `spawn` and `wait`.
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)

    def _read_status(self) -> None:
        data = os.read(self._status, _CHUNK)
        if not data:
            self._forget(self._status)
            self._status = -1
            return
        *lines, self._status_text = (self._status_text + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if "child-pid" in report:
                self._take_hold(report["child-pid"])
            self._builder_exit = report.get("exit-code", self._builder_exit)

    def _take_hold(self, pid: int) -> None:
        """Open a pidfd of the sandbox's pid 1, which waits for its filter. Then let it continue, or kill it."""
        # If the setup failed, pid 1 may be gone and its number reused, so the parent is checked too.
        with contextlib.suppress(ProcessLookupError):
            pid_one = os.pidfd_open(pid)
            self._stack.callback(os.close, pid_one)
            if self._process is None or _read_parent(pid) != self._process.pid:
                return
            self._pid_one = pid_one
            if self._verdict is None:
                self._let_go_on(pid)
            else:
                self._kill()

    def _let_go_on(self, pid: int) -> None:
        """Set the sandbox's resource limits, and write its filter."""
        # RLIMIT_NPROC counts within the sandbox's user namespace. It slows an ordinary user's fork bomb until the
        # watch sees it. The kernel exempts root, so the watch alone must catch root's fork bombs.
        tasks = 2 * self._request.limits.processes + 64
        for kind, soft in (*_RESOURCE_LIMITS, (resource.RLIMIT_NPROC, tasks)):
            _, hard = resource.prlimit(pid, kind)
            wanted = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
            resource.prlimit(pid, kind, (wanted, hard))
        self._watch.start_looking(self._stack.enter_context(SandboxMeter(pid)))
        # A write shorter than PIPE_BUF is atomic, so bwrap sees all of the filter or none. The pipe is broken if bwrap
        # died because a mount failed.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._filter_pipe, seccomp.build_filter(platform.machine()))
        self._close_filter_pipe()

    def _close_filter_pipe(self) -> None:
        if self._filter_pipe != -1:
            os.close(self._filter_pipe)
            self._filter_pipe = -1

    def _read_output(self) -> None:
        data = os.read(self._output, _CHUNK)
        if not data:
            self._forget(self._output)
            self._output = -1
            return
        self._watch.note_output()
        if not self._log.write(data):
            self._stop(BuildOutcome.LOG_LIMIT)
        elif self._on_output is not None:
            self._on_output(data)

    def _stop(self, verdict: BuildOutcome | None) -> None:
        if verdict is not None and self._verdict is None:
            self._verdict = verdict
            self._kill()

    def _kill(self) -> None:
        """Kill pid 1, and so the sandbox and bwrap's monitor. If pid 1 is unknown yet, `_take_hold` kills it later."""
        if self._pid_one is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pid_one, signal.SIGKILL)

    def _bury(self) -> None:
        """Wait until every process is dead, and read the rest of the output."""
        if self._process is None:
            return
        while self._status != -1:
            self._read_status()
        self._process.wait()
        if self._pid_one is not None:
            self._kill()
            gone = select.poll()
            gone.register(self._pid_one, select.POLLIN)
            gone.poll()
        while self._output != -1:
            self._read_output()

    def _judge(self) -> BuildResult | None:
        returned = self._process.returncode if self._process is not None else 0
        if self._verdict is not None:
            return self._result(self._verdict, _KILLED)
        if self._builder_exit is None and returned < 0:
            return self._result(BuildOutcome.SIGNALLED, 128 - returned)
        if self._builder_exit is None:
            # Only bwrap's message tells that the builder could not be executed. Nothing else has printed anything yet.
            unknown = b"bwrap: execvp " in self._log.tail
            return self._result(BuildOutcome.FAILED, _NOT_EXECUTABLE) if unknown else None
        if self._watch.has_too_much_output():
            return self._result(BuildOutcome.OUTPUT_LIMIT, self._builder_exit)
        return self._result(_name_outcome(self._builder_exit), self._builder_exit)

    def _result(self, outcome: BuildOutcome, exit_code: int) -> BuildResult:
        return BuildResult(outcome, exit_code, self._watch.seconds, self._watch.peak_memory_bytes)

    def _open_pipe(self, child: ExitStack) -> tuple[int, int]:
        """The reading end, which stays open during the run, and the writing end for bwrap."""
        reading, writing = os.pipe()
        self._stack.callback(os.close, reading)
        child.callback(os.close, writing)
        return reading, writing


def _spawn(bwrap: availability.Bubblewrap, command: SandboxCommand, output: int) -> subprocess.Popen[bytes]:
    """Start bwrap without anything of this process: no environment, umask, folder, descriptors or signal settings."""
    argv, program = command.argv, bwrap.path
    if any(signal.getsignal(number) is signal.SIG_IGN for number in _REMEMBERED_SIGNALS):
        # forge ignores a signal under nohup, or in the background of a script. Only the main thread could reset that
        # here, so `env` does it.
        argv, program = ("env", "--default-signal", str(bwrap.path), *argv[1:]), _ENV
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        # posix_spawn cannot set a umask. With these arguments, Python uses vfork.
        return subprocess.Popen(
            argv,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={},
            umask=0o022,
            pass_fds=command.descriptors,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _read_parent(pid: int) -> int:
    """The parent of a process, or 0 if the process does not exist."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except FileNotFoundError:
        return 0


def _name_outcome(exit_code: int) -> BuildOutcome:
    """The outcome for an exit code. A shell's own exit code 128 + n looks like a signal, here as elsewhere."""
    if exit_code == 0:
        return BuildOutcome.SUCCEEDED
    return BuildOutcome.SIGNALLED if 128 < exit_code <= _LAST_SIGNAL else BuildOutcome.FAILED
