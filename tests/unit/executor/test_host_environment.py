"""A host environment really is around the process that runs a build, and end there; whatever dies, nothing is left."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mmojo_forge.executor import personality, sandbox, varied_process
from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
from mmojo_forge.executor.host_environment import HostEnvironment, VariedExecutor
from mmojo_forge.executor.request import BadRequestError, BuildOutcome, BuildRequest, BuildResult, ExecutorError, Mount
from mmojo_forge.model.derivation import Limits

REPOSITORY = Path(__file__).resolve().parents[3]
PERSONALITY = 0x0040000 | 0x0200000  # no random addresses, legacy layout
OTHER = HostEnvironment(
    {"LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "HOME": "/nowhere", "CFLAGS": "-O9"},
    umask=0o077,
    folder="/usr",
    cpus=(min(os.sched_getaffinity(0)),),
    personality=PERSONALITY,
    uid=4321,
    hostname="elsewhere",
)


@pytest.fixture(scope="module")
def userland(tmp_path_factory: pytest.TempPathFactory) -> Path:
    busybox = shutil.which("busybox")
    assert busybox is not None, "install busybox-static"
    programs = tmp_path_factory.mktemp("userland") / "bin"
    programs.mkdir()
    shutil.copy(busybox, programs / "busybox")
    for name in ("sh", "id", "hostname", "env", "sleep", "cat", "nproc", "pwd"):
        (programs / name).symlink_to("busybox")
    return programs.parent


Make = Callable[[str], BuildRequest]


@pytest.fixture
def request_for(tmp_path: Path, userland: Path) -> Make:
    """Makes a request for a shell script."""

    def make(script: str) -> BuildRequest:
        for name in ("work", "out"):
            (tmp_path / name).mkdir()
        return BuildRequest(
            name="build",
            argv=("/usr/bin/sh", "-c", script),
            env=sandbox.sandbox_environment(),
            mounts=(Mount(userland, "/usr"),),
            work=tmp_path / "work",
            out=tmp_path / "out",
            log=tmp_path / "log",
            limits=Limits(wall_seconds=120),
        )

    return make


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs any more; one that nobody has waited for yet is dead too."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return not any(map(runs, pids))


class Running:
    """A build that runs until it is let go, and the processes around it."""

    def __init__(self, executor: VariedExecutor, request: BuildRequest, pool: ThreadPoolExecutor) -> None:
        self.started = threading.Event()
        self.stop_pipe = os.pipe()
        self.result: Future[BuildResult] = pool.submit(
            executor.run, request, cancellation=self, on_output=lambda _: self.started.set()
        )
        wait_until(lambda: self.started.is_set() or self.result.done(), "the build has not begun")
        if self.result.done():
            self.result.result()
        self.processes = [pid for child in self._spawned() for pid in family(child)]

    def _spawned(self) -> list[int]:
        return [pid for pid in children(os.getpid()) if any(map(_is_executor, family(pid)))]

    @property
    def executor(self) -> int:
        """The process in which forge's executor runs."""
        (pid,) = filter(_is_executor, self.processes)
        return pid

    def fileno(self) -> int:
        return self.stop_pipe[0]

    def stop(self) -> BuildResult:
        os.write(self.stop_pipe[1], b"x")
        return self.result.result(timeout=60)

    def close(self) -> None:
        for pid in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for end in self.stop_pipe:
            os.close(end)


def _is_executor(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0] == os.fsencode(sys.executable) and any(b"varied_process import main" in word for word in words)
    return False


@pytest.fixture
def run_until_stopped(request_for: Make) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))

        def start(host_environment: HostEnvironment, script: str = "echo started; sleep 600") -> Running:
            running = Running(VariedExecutor(host_environment), request_for(script), pool)
            stack.callback(running.close)
            return running

        yield start


def need(host_environment: HostEnvironment) -> None:
    """Skip the test where the machine says that it does not allow this host environment."""
    why = VariedExecutor(host_environment).probe()
    if why:
        pytest.skip(f"not allowed here: {why}")


def look(pid: int) -> dict[str, object]:
    """What is around a process, told by the kernel."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    pairs = (pair.partition(b"=") for pair in (folder / "environ").read_bytes().split(b"\0") if pair)
    return {
        "environment": {name.decode(): value.decode() for name, _, value in pairs},
        "umask": int(status["Umask"], 8),
        "folder": os.readlink(folder / "cwd"),
        "cpus": tuple(sorted(os.sched_getaffinity(pid))),
        "personality": int((folder / "personality").read_text(), 16),
        "uid_map": (folder / "uid_map").read_text().split(),
        "uts": os.readlink(folder / "ns/uts"),
    }


def test_the_process_around_a_build_is_in_its_surroundings(run_until_stopped: Callable[..., Running]) -> None:
    need(OTHER)
    running = run_until_stopped(OTHER)
    found = look(running.executor)
    variables = found["environment"]
    assert isinstance(variables, dict)
    variables.pop("PWD", None)  # bwrap's
    assert variables == OTHER.environment
    assert (found["umask"], found["folder"], found["cpus"]) == (OTHER.umask, OTHER.folder, OTHER.cpus)
    assert found["personality"] == PERSONALITY
    assert found["uid_map"] == [str(OTHER.uid), str(os.getuid()), "1"]
    assert found["uts"] != os.readlink("/proc/self/ns/uts")
    assert running.stop().outcome is BuildOutcome.CANCELLED
    assert gone(running.processes)


def test_no_user_and_no_host_name_are_asked_for_where_none_is_given(run_until_stopped: Callable[..., Running]) -> None:
    usual = HostEnvironment({"A": "1"})
    running = run_until_stopped(usual)
    found = look(running.executor)
    assert (found["environment"], found["umask"], found["folder"]) == ({"A": "1"}, 0o022, "/")
    assert found["cpus"] == tuple(sorted(os.sched_getaffinity(0)))
    assert found["uts"] == os.readlink("/proc/self/ns/uts")
    assert running.executor in children(os.getpid())


@pytest.mark.parametrize("host_environment", [HostEnvironment(), OTHER], ids=["usual", "other"])
def test_the_sandbox_is_the_same_in_all_surroundings(request_for: Make, host_environment: HostEnvironment) -> None:
    need(host_environment)
    request = request_for("id -u; id -un; hostname; umask; pwd; env; nproc; cat /proc/self/personality")
    chunks: list[bytes] = []
    assert VariedExecutor(host_environment).run(request, on_output=chunks.append).succeeded
    lines = b"".join(chunks).decode().splitlines()
    assert lines[:5] == ["1000", "forge", "forge", "0022", "/build"]
    assert sorted(lines[5:-2]) == sorted(f"{name}={value}" for name, value in {**request.env, "SHLVL": "1"}.items())
    # These the sandbox does not hide, so that to vary them says something about the build.
    assert int(lines[-2]) == len(host_environment.cpus or os.sched_getaffinity(0))
    assert int(lines[-1], 16) == host_environment.personality


def test_surroundings_may_show_a_build_another_file(request_for: Make, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: none\n")
    chunks: list[bytes] = []
    executor = VariedExecutor(HostEnvironment(mounts=(Mount(tmp_path / "cpuinfo", "/proc/cpuinfo"),)))
    assert executor.run(request_for("cat /proc/cpuinfo"), on_output=chunks.append).succeeded
    assert b"".join(chunks) == b"model name\t: none\n"


def test_a_mount_of_the_surroundings_may_not_hide_one_of_the_build(request_for: Make, tmp_path: Path) -> None:
    executor = VariedExecutor(HostEnvironment(mounts=(Mount(tmp_path, "/usr/lib"),)))
    with pytest.raises(BadRequestError) as raised:
        executor.run(request_for("true"))
    assert raised.value.reason == "bad-mount"


def test_a_request_survives_the_journey(request_for: Make) -> None:
    request = replace(request_for("é\n'"), limits=Limits(wall_seconds=1.5, memory_bytes=1 << 30))
    again = BuildRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert again == request
    assert {field.name for field in fields(BuildRequest)} == request.to_json().keys()


def bwrap_stand_in(folder: Path, script: str) -> Path:
    """A program that is called instead of bwrap; the real one is `$bwrap`."""
    program = folder / "bwrap"
    real = shutil.which("bwrap")
    program.write_text(
        f'#!/bin/sh\nbwrap={real}\n[ "$1" != --version ] || exec "$bwrap" --version\n{script}\nexec "$bwrap" "$@"\n'
    )
    program.chmod(0o755)
    return program


def test_surroundings_that_are_possible_are_not_explained() -> None:
    assert VariedExecutor(HostEnvironment()).probe() == ""


def test_a_machine_without_nested_namespaces_says_so(request_for: Make, tmp_path: Path) -> None:
    program = bwrap_stand_in(tmp_path, 'case "$*" in *--dev-bind*) echo "bwrap: no namespaces" >&2; exit 1;; esac')
    executor = VariedExecutor(replace(OTHER, personality=0), program)
    assert executor.probe().endswith(": bwrap: no namespaces")
    with pytest.raises(ExecutorError) as raised:
        executor.run(request_for("true"))
    assert raised.value.reason == "no-such-host-environment"
    assert VariedExecutor(HostEnvironment(umask=0o077), program).probe() == ""


class Refuses:
    """libc on a machine whose filter forbids personality(2)."""

    def personality(self, _: object) -> int:
        return -1


def test_a_personality_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personality, "_LIBC", Refuses())
    with pytest.raises(ExecutorError) as raised:
        varied_process._take_on([], PERSONALITY)
    assert raised.value.reason == "no-such-host-environment"


def test_a_machine_that_forbids_the_usual_personality_builds_without(
    monkeypatch: pytest.MonkeyPatch, request_for: Make
) -> None:
    monkeypatch.setattr(personality, "_LIBC", Refuses())
    varied_process._take_on([], personality.USUAL)
    assert BubblewrapExecutor().run(request_for("true")).succeeded


def test_a_personality_that_is_refused_is_what_a_probe_says(request_for: Make, tmp_path: Path) -> None:
    """The child is told to find everything forbidden by a filter that is loaded around it."""
    script = (
        'case "$*" in *--dev-bind*) ;; *) exec "$bwrap" "$@";; esac\n'
        f'exec 9<"{tmp_path}/filter"\nexec "$bwrap" --seccomp 9 "$@"'
    )
    (tmp_path / "filter").write_bytes(refusing(135))
    program = bwrap_stand_in(tmp_path, script)
    usual = HostEnvironment({}, uid=OTHER.uid)
    need(usual)
    assert VariedExecutor(usual, program).probe() == ""
    executor = VariedExecutor(replace(usual, personality=PERSONALITY), program)
    assert "personality" in executor.probe()
    with pytest.raises(ExecutorError) as raised:
        executor.run(request_for("true"))
    assert raised.value.reason == "no-such-host-environment"


def refusing(number: int) -> bytes:
    """A filter for the kernel that answers one system call with EPERM and allows all others."""
    import struct

    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def test_cpus_that_are_not_there_are_refused_with_a_reason(request_for: Make) -> None:
    executor = VariedExecutor(HostEnvironment(cpus=(1023,)))
    assert "1023" in executor.probe()
    with pytest.raises(ExecutorError) as raised:
        executor.run(request_for("true"))
    assert raised.value.reason == "no-such-host-environment"


@pytest.mark.parametrize("host_environment", [HostEnvironment(), OTHER], ids=["usual", "other"])
def test_a_child_that_cannot_start_is_not_blamed_on_the_machine(
    request_for: Make, monkeypatch: pytest.MonkeyPatch, host_environment: HostEnvironment
) -> None:
    need(host_environment)
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with pytest.raises(ExecutorError) as raised:
        VariedExecutor(host_environment).run(request_for("true"))
    assert raised.value.reason == "executor-died"
    assert "ModuleNotFoundError" in raised.value.detail


def test_a_process_that_cannot_be_started_is_an_error_with_a_reason(request_for: Make) -> None:
    with pytest.raises(ExecutorError) as raised:
        VariedExecutor(HostEnvironment(folder="/nowhere")).run(request_for("true"))
    assert raised.value.reason == "cannot-spawn"


@pytest.mark.parametrize(
    "host_environment", [HostEnvironment(), HostEnvironment(cpus=(1023,)), HostEnvironment(folder="/nowhere")]
)
def test_no_descriptor_is_left_open_however_it_ends(request_for: Make, host_environment: HostEnvironment) -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    with contextlib.suppress(ExecutorError):
        VariedExecutor(host_environment).run(request_for("true"))
    assert os.listdir("/proc/self/fd") == before


def test_nothing_is_said_on_the_terminal_of_whoever_asks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = bwrap_stand_in(tmp_path, 'echo "bwrap: no namespaces" >&2; exit 1')
    assert VariedExecutor(OTHER, program).probe()
    assert capfd.readouterr() == ("", "")


def test_a_path_of_modules_may_be_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is for a forge that was started in its own checkout with PYTHONPATH=."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if Path(path) != REPOSITORY)])
    assert VariedExecutor(HostEnvironment(folder="/usr")).probe() == ""


def test_a_log_that_cannot_be_written_is_told(request_for: Make, tmp_path: Path) -> None:
    request = replace(request_for("true"), log=tmp_path / "no such folder" / "log")
    with pytest.raises(ExecutorError) as raised:
        VariedExecutor(HostEnvironment()).run(request)
    assert raised.value.reason == "no-log"


def test_no_bwrap_is_told_by_run_and_probe(request_for: Make, tmp_path: Path) -> None:
    executor = VariedExecutor(HostEnvironment(), tmp_path / "none")
    for ask in (executor.probe, lambda: executor.run(request_for("true"))):
        with pytest.raises(ExecutorError) as raised:
            ask()
        assert raised.value.reason == "no-bwrap"


def test_an_input_that_is_missing_is_the_error_it_always_is(request_for: Make, tmp_path: Path) -> None:
    request = request_for("true")
    request = replace(request, mounts=(*request.mounts, Mount(tmp_path / "none", "/forge/none")))
    with pytest.raises(ExecutorError) as raised:
        VariedExecutor(HostEnvironment()).run(request)
    assert raised.value.reason == "missing-input"


@pytest.mark.parametrize("host_environment", [HostEnvironment(), OTHER], ids=["usual", "other"])
@pytest.mark.parametrize("which", ["executor", "outermost"])
def test_a_killed_executor_is_an_error_and_leaves_no_process(
    run_until_stopped: Callable[..., Running], host_environment: HostEnvironment, which: str
) -> None:
    need(host_environment)
    running = run_until_stopped(host_environment, "trap : TERM INT HUP; echo started; sleep 600; sleep 600")
    os.kill(running.executor if which == "executor" else running.processes[0], signal.SIGKILL)
    with pytest.raises(ExecutorError) as raised:
        running.result.result(timeout=60)
    assert raised.value.reason == "executor-died"
    wait_until(lambda: gone(running.processes), "a process is left over")


@pytest.mark.parametrize("host_environment", [HostEnvironment(), OTHER], ids=["usual", "other"])
def test_a_build_that_is_stopped_leaves_no_process(
    run_until_stopped: Callable[..., Running], host_environment: HostEnvironment
) -> None:
    need(host_environment)
    running = run_until_stopped(host_environment, "trap : TERM INT HUP; echo started; sleep 600; sleep 600")
    assert running.stop().outcome is BuildOutcome.CANCELLED
    assert gone(running.processes)


def test_what_is_raised_by_the_caller_ends_the_build(request_for: Make) -> None:
    class Enough(Exception):
        pass

    seen: list[int] = []

    def refuse(_: bytes) -> None:
        seen.extend(
            pid for child in children(os.getpid()) for pid in family(child) if any(map(_is_executor, family(child)))
        )
        raise Enough

    with pytest.raises(Enough):
        VariedExecutor(HostEnvironment()).run(request_for("echo started; sleep 600"), on_output=refuse)
    assert len(seen) > 1
    assert gone(seen)


RUN = """
import sys
from mmojo_forge.executor.host_environment import VariedExecutor, HostEnvironment
from mmojo_forge.executor.request import BuildRequest
import json
given = json.loads(sys.argv[1])
host_environment = HostEnvironment(uid=given["uid"], hostname=given["hostname"])
request = BuildRequest.from_json(given["request"])
VariedExecutor(host_environment).run(request, on_output=lambda _: print("started", flush=True))
"""


@pytest.mark.parametrize("hostname", [None, "elsewhere"])
def test_a_forge_that_is_killed_leaves_no_process(request_for: Make, hostname: str | None) -> None:
    uid = None if hostname is None else 4321
    need(HostEnvironment(uid=uid, hostname=hostname))
    request = request_for("trap : TERM INT HUP; echo started; sleep 600; sleep 600")
    given = {"uid": uid, "hostname": hostname, "request": request.to_json()}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(given)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as forge:
        assert forge.stdout is not None
        assert forge.stdout.readline() == b"started\n"
        processes = family(forge.pid)
        assert len(processes) >= 4
        forge.kill()
    try:
        wait_until(lambda: gone(processes), "a process is left over")
    finally:
        for pid in processes[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
