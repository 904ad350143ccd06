"""Real sandboxes: what a build sees, what it cannot do, and that nothing of it survives. As root and as a user.

Needs bwrap and busybox-static. Where the tests run as root, everything is tried a second time by an ordinary user,
in a child process that gives its rights up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import pytest
import zstandard

from mmojo_forge.executor import availability, bubblewrap, personality, sandbox
from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, ExecutorError, Mount
from mmojo_forge.executor.seccomp import MACHINES
from mmojo_forge.model.derivation import Limits

T = TypeVar("T")
NOBODY = 65534
MACHINE = platform.machine()
LIMITS = Limits(wall_seconds=60, silent_seconds=60)


def run_apart(user: int | None, action: Callable[[], T]) -> T:
    """What `action` returns, or raises, in a child process of its own that is `user`."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            try:
                if user is not None:
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                answer: object = action()
            except ExecutorError as error:
                answer = error.reason
            except BaseException as error:  # noqa: BLE001 - told to the parent
                answer = repr(error)
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pickle.load(pipe)
    os.waitpid(child, 0)
    return cast(T, answer)


@dataclass
class Lab:
    """Makes requests whose userland is busybox, and runs them as one user."""

    path: Path
    user: int | None
    count: int = 0

    def request(
        self, script: str, *, limits: Limits = LIMITS, mounts: tuple[Mount, ...] = (), env: dict[str, str] | None = None
    ) -> BuildRequest:
        self.count += 1
        place = self.path / str(self.count)
        for folder in (place, place / "work", place / "out"):
            folder.mkdir()
            if self.user is not None:
                os.chown(folder, self.user, self.user)
        return BuildRequest(
            name=f"build{self.count}",
            argv=("/usr/bin/sh", "-c", script),
            env=sandbox.sandbox_environment() if env is None else env,
            mounts=(Mount(self.path / "userland", "/usr"), *mounts),
            work=place / "work",
            out=place / "out",
            log=place / "log",
            limits=limits,
        )

    def run(self, request: BuildRequest) -> tuple[BuildResult, str]:
        if self.user is None:
            result = BubblewrapExecutor().run(request)
        else:
            result = run_apart(self.user, lambda: BubblewrapExecutor().run(request))
        assert isinstance(result, BuildResult), result
        return result, read_log(request)

    def output(self, script: str, *, mounts: tuple[Mount, ...] = (), env: dict[str, str] | None = None) -> str:
        result, output = self.run(self.request(script, mounts=mounts, env=env))
        assert result.succeeded, output
        return output

    def outcome(self, script: str, limits: Limits) -> BuildOutcome:
        return self.run(self.request(script, limits=limits))[0].outcome

    def errno_of(self, *calls: bytes, data: bytes = b"") -> int:
        """The error number that the last of these system calls gave, 0 for none."""
        prober = self.path / f"prober{self.count}"
        prober.write_bytes(elf(b"".join(calls), data))
        prober.chmod(0o755)
        mount = Mount(prober, "/forge/prober")
        request = self.request("", mounts=(mount,))
        result, output = self.run(replace(request, argv=("/forge/prober",)))
        assert not output
        return result.exit_code


def read_log(request: BuildRequest) -> str:
    return zstandard.ZstdDecompressor().decompressobj().decompress(request.log.read_bytes()).decode()


# ---- a static executable that makes some system calls and exits with the last one's error number

BASE, DATA = 0x400000, 0x400800


def load(register: int, value: int) -> bytes:
    """Machine code that puts a number into the n-th register of a system call (x86-64), or into x<n> (arm64)."""
    value &= 2**64 - 1
    if MACHINE == "x86_64":
        return bytes.fromhex("48b8 48bf 48be 48ba 49ba 49b8 49b9")[2 * register :][:2] + struct.pack("<Q", value)
    parts = [(value >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]
    first = struct.pack("<I", 0xD2800000 | parts[0] << 5 | register)
    return first + b"".join(
        struct.pack("<I", 0xF2800000 | at << 21 | part << 5 | register) for at, part in enumerate(parts) if at
    )


def raw_call(number: int, *arguments: int) -> bytes:
    if MACHINE == "x86_64":
        places, instruction = (0, *range(1, 7)), b"\x0f\x05"
    else:
        places, instruction = (8, *range(6)), bytes.fromhex("010000d4")
    return b"".join(map(load, places, (number, *arguments))) + instruction


def call(name: str, *arguments: int) -> bytes:
    return raw_call(NUMBERS[name], *arguments)


def elf(code: bytes, data: bytes) -> bytes:
    if MACHINE == "x86_64":
        code += bytes.fromhex("4889c7 48f7df") + load(0, 60) + b"\x0f\x05"  # exit(-result)
    else:
        code += bytes.fromhex("e00300cb") + load(8, 93) + bytes.fromhex("010000d4")
    machine = {"x86_64": 62, "aarch64": 183}[MACHINE]
    body = code.ljust(DATA - BASE - 120, b"\0") + data + bytes(256)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, 120 + len(body), 120 + len(body), 4096) + body


NUMBERS = {
    **MACHINES[MACHINE].calls,
    **({"fcntl": 72, "connect": 42} if MACHINE == "x86_64" else {"fcntl": 25, "connect": 203}),
}


# ---- fixtures


@pytest.fixture(scope="module")
def userland() -> Iterator[Path]:
    """A directory every user may read, with a userland of busybox alone in it."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "install busybox-static"
    path = Path(tempfile.mkdtemp(prefix="forge-sandbox-"))
    path.chmod(0o755)
    programs = path / "userland" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(busybox, programs / "busybox")
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (programs / name).symlink_to("busybox")
    for folder in (path / "userland", programs):
        folder.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def home(userland: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=userland))
    path.chmod(0o755)
    (path / "userland").symlink_to("../userland")
    yield path


@pytest.fixture(params=["self", "ordinary user"])
def lab(request: pytest.FixtureRequest, home: Path) -> Lab:
    """The one who runs the tests, then an ordinary user; for an ordinary user both are the same."""
    apart = request.param == "ordinary user" and os.geteuid() == 0
    return Lab(home, NOBODY if apart else None)


@pytest.fixture
def own_lab(home: Path) -> Lab:
    return Lab(home, None)


# ---- what a build sees


def test_the_user_the_host_and_the_umask_are_the_contracts(lab: Lab) -> None:
    before = os.umask(0o077)
    try:
        output = lab.output("id -u; id -g; id -un; hostname; umask; pwd; cat /proc/sys/kernel/hostname; uname -n")
    finally:
        os.umask(before)
    assert output.split() == ["1000", "1000", "forge", "forge", "0022", "/build", "forge", "forge"]


def test_the_environment_is_exactly_the_requests(lab: Lab) -> None:
    env = {"B": "two words", "A": "", "PATH": "/usr/bin", "LD_PRELOAD": "/forge/none.so"}
    result, output = lab.run(replace(lab.request("", env=env), argv=("/usr/bin/env",)))
    assert result.succeeded
    assert sorted(output.splitlines()) == sorted([*(f"{key}={value}" for key, value in env.items()), "PWD=/build"])


def test_memory_lies_at_the_same_place_each_time(lab: Lab) -> None:
    """Whatever forge was started with, and with other variables in its environment than the last time."""

    def look() -> tuple[str, list[str]]:
        flags, *maps = lab.output("cat /proc/self/personality /proc/self/maps").splitlines()
        return flags, [line.split()[0] for line in maps]

    with personality.taken_on(personality.USUAL) as why:
        if why:
            pytest.skip(f"not allowed here: {why}")
        first = look()
    assert first[0] == f"{personality.ADDR_NO_RANDOMIZE:08x}"
    with personality.taken_on(personality.ADDR_COMPAT_LAYOUT):
        assert look() == first
    assert look() == first


def test_bwrap_itself_tells_nothing_of_the_hosts_environment_and_paths(lab: Lab) -> None:
    output = lab.output("cat /proc/1/environ /proc/1/cmdline | tr '\\0' '\\n'")
    assert str(lab.path) not in output
    assert "PATH=" not in output


def test_there_is_nothing_but_the_contract_and_the_inputs(lab: Lab) -> None:
    tool = lab.path / "tool"
    tool.write_text("content")
    output = lab.output("ls / /etc /forge; ls /dev; cat /forge/tool", mounts=(Mount(tool, "/forge/tool"),))
    root, etc, forge, dev = (set(part.split("\n\n")[0].split()) for part in _sections(output))
    assert root == {"bin", "build", "dev", "etc", "forge", "lib", "lib64", "proc", "sbin", "tmp", "usr"}
    assert etc == {"group", "hosts", "nsswitch.conf", "passwd"}
    assert forge - {"content"} == {"out", "tool"}
    wanted = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty"}
    assert dev - {"content"} == wanted | {"urandom", "zero"}


def _sections(output: str) -> tuple[str, str, str, str]:
    _, root, etc, rest = output.split(":\n")
    forge, dev = rest.split("core\n", 1)
    return root.rpartition("\n\n")[0], etc.rpartition("\n\n")[0], forge, "core\n" + dev


def test_files_of_the_host_are_out_of_sight_also_through_pid_1(lab: Lab) -> None:
    marker = lab.path / "marker"
    marker.write_text("host")
    host = "/proc/1/root"
    lab.output(f"! cat {marker} && ! cat {host}{marker} && ! ls {host}/root /sys /var /home")


def test_the_shells_descriptors_are_the_three_standard_ones(lab: Lab) -> None:
    with (lab.path / "secret").open("wb") as secret:
        os.dup2(secret.fileno(), 50, inheritable=True)
        try:
            assert lab.errno_of(call("fcntl", 50, 1)) == errno.EBADF
            assert lab.errno_of(*(call("fcntl", descriptor, 1) for descriptor in range(3))) == 0
            for descriptor in range(3, 20):
                assert lab.errno_of(call("fcntl", descriptor, 1)) == errno.EBADF
        finally:
            os.close(50)


def test_standard_input_is_empty_and_there_is_no_terminal(lab: Lab) -> None:
    lab.output('[ -z "$(cat)" ] && ! (: < /dev/tty) && ! tty -s')


def test_only_the_builds_own_processes_are_seen(lab: Lab) -> None:
    output = lab.output("ls /proc | grep -c '^[0-9]'; ls /proc")
    assert int(output.split()[0]) <= 5
    assert str(os.getpid()) not in output.split()


def test_no_capability_is_left(lab: Lab) -> None:
    output = lab.output("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    values = [line.split()[1] for line in output.splitlines()]
    assert values == ["0" * 16] * 5 + ["1", "2"]


# ---- what a build cannot do


def test_inputs_and_the_system_are_read_only(lab: Lab) -> None:
    source = lab.path / "input"
    source.mkdir()
    (source / "file").write_text("as it was")
    if lab.user is not None:
        for path in (source, source / "file"):
            os.chown(path, lab.user, lab.user)
    script = """
        for target in /forge/in/file /forge/in/new /usr/bin/new /new /etc/passwd /etc/new /dev/new /forge/new \
            /proc/sys/kernel/core_pattern /proc/self/oom_score_adj /proc/sysrq-trigger; do
            if (echo x >> $target) 2> /dev/null; then echo "$target is writable"; fi
        done
        ! rm /forge/in/file && ! ln /forge/in/file /build/link && ! touch /forge/in && ! chmod 777 /forge/in
        echo x > /build/a && echo x > /forge/out/a && echo x > /tmp/a && echo x > /dev/shm/a && echo x > /dev/null
    """
    output = lab.output(script, mounts=(Mount(source, "/forge/in"),))
    assert "is writable" not in output
    assert (source / "file").read_text() == "as it was"


def test_there_is_no_network_but_an_own_loopback(lab: Lab) -> None:
    names = [line.split(":")[0].strip() for line in lab.output("tail -n +3 /proc/net/dev").splitlines()]
    assert names == ["lo"]


def test_servers_of_the_host_are_out_of_reach(lab: Lab) -> None:
    name = b"\0forge-test-" + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as inet:
        local.bind(name)
        local.listen()
        port = struct.pack(">H", inet.getsockname()[1])
        addresses = {
            socket.AF_UNIX: struct.pack("<H", socket.AF_UNIX) + name,
            socket.AF_INET: struct.pack("<H", socket.AF_INET) + port + bytes([127, 0, 0, 1]) + bytes(8),
        }
        for family, address in addresses.items():
            calls = (call("socket", family, 1, 0), call("connect", 3, DATA, len(address)))
            # The same program outside gets through: it is the sandbox that stops it.
            outside = lab.path / "outside"
            outside.write_bytes(elf(b"".join(calls), address))
            outside.chmod(0o755)
            assert subprocess.run([outside], check=False).returncode == 0
            outside.unlink()
            assert lab.errno_of(*calls, data=address) == errno.ECONNREFUSED


AT_FDCWD = -100
CREATE = 0o101
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
REFUSED_CALLS = [
    ("a key is added", "add_key", (DATA, DATA, DATA, 1, -3), errno.ENOSYS),
    ("a key is asked for", "request_key", (DATA, DATA, 0, 0), errno.ENOSYS),
    ("the session keyring is read", "keyctl", (0, -3, 0), errno.ENOSYS),
    ("a process is traced", "ptrace", (16, 1, 0, 0), errno.EPERM),
    ("a process's memory is read", "process_vm_readv", (1, DATA, 1, DATA, 1, 0), errno.EPERM),
    ("a terminal is typed into", "ioctl", (0, TIOCSTI, DATA), errno.EPERM),
    ("a terminal is typed into, with upper bits", "ioctl", (0, 1 << 32 | TIOCSTI, DATA), errno.EPERM),
    ("a console is pasted into", "ioctl", (0, TIOCLINUX, DATA), errno.EPERM),
    ("a console is pasted into, with upper bits", "ioctl", (0, -1 << 32 | TIOCLINUX, DATA), errno.EPERM),
    ("a setuid file is created", "openat", (AT_FDCWD, DATA, CREATE, 0o4755), errno.EPERM),
    ("a setgid directory is made", "mkdirat", (AT_FDCWD, DATA, 0o2755), errno.EPERM),
    ("a mode becomes setuid", "fchmod", (1, 0o4755), errno.EPERM),
    ("a mode becomes setgid", "fchmodat", (AT_FDCWD, DATA, 0o2755), errno.EPERM),
    ("a device node is made", "mknodat", (AT_FDCWD, DATA, 0o020666, 0x103), errno.EPERM),
    ("a whiteout is made", "mknodat", (AT_FDCWD, DATA, 0o020666, 0), errno.EPERM),
    ("a file gets capabilities", "fsetxattr", (1, DATA, DATA, 20, 0), errno.EOPNOTSUPP),
    ("a user namespace is cloned", "clone", (0x10000011, 0, 0, 0, 0), errno.EPERM),
    ("a user namespace is unshared", "unshare", (0x10000000,), errno.EPERM),
    ("a mount namespace is unshared", "unshare", (0x00020000,), errno.EPERM),
    ("a namespace is entered", "setns", (0, 0), errno.EPERM),
    ("clone3 hides its flags", "clone3", (DATA, 64), errno.ENOSYS),
    ("openat2 hides its mode", "openat2", (AT_FDCWD, DATA, DATA, 24), errno.ENOSYS),
    ("io_uring passes the filter by", "io_uring_setup", (1, DATA), errno.ENOSYS),
    ("bpf is loaded", "bpf", (0, DATA, 64), errno.EPERM),
    ("the machine is profiled", "perf_event_open", (DATA, 0, -1, -1, 0), errno.EPERM),
    ("page faults are handled", "userfaultfd", (1,), errno.ENOSYS),
    ("the kernel's log is read", "syslog", (3, DATA, 64), errno.EPERM),
    ("a file system is mounted", "mount", (DATA, DATA, DATA, 0, 0), errno.EPERM),
    ("a file system is opened", "fsopen", (DATA, 0), errno.ENOSYS),
    ("the hypervisor is called", "socket", (40, 1, 0), errno.EAFNOSUPPORT),
    ("the kernel's cryptography is used", "socket", (38, 5, 0), errno.EAFNOSUPPORT),
]


@pytest.mark.parametrize(
    ("name", "arguments", "error"), [row[1:] for row in REFUSED_CALLS], ids=[row[0] for row in REFUSED_CALLS]
)
def test_the_kernel_refuses(lab: Lab, name: str, arguments: tuple[int, ...], error: int) -> None:
    assert lab.errno_of(call(name, *arguments), data=b"file\0") == error


def test_the_prober_itself_is_let_through(own_lab: Lab) -> None:
    descriptor_three = 256 - 3
    assert own_lab.errno_of(call("openat", AT_FDCWD, DATA, CREATE, 0o755), data=b"file\0") == descriptor_three
    assert own_lab.errno_of(call("socket", socket.AF_UNIX, 1, 0)) == descriptor_three
    assert own_lab.errno_of(call("mkdirat", AT_FDCWD, DATA, 0o755), data=b"folder\0") == 0
    assert own_lab.errno_of(call("ioctl", 0, 0x5401, DATA)) == errno.ENOTTY


@pytest.mark.skipif(MACHINE != "x86_64", reason="arm64 has neither of these ABIs")
def test_other_abis_of_the_processor_are_closed(lab: Lab) -> None:
    assert lab.errno_of(raw_call(0x40000000 + 39)) == errno.ENOSYS
    getpid_of_i386 = load(0, 20) + b"\xcd\x80"
    assert lab.errno_of(getpid_of_i386) == 128 + signal.SIGSYS


# ---- how a build ends


@pytest.mark.parametrize(
    ("script", "outcome", "exit_code"),
    [
        ("exit 0", BuildOutcome.SUCCEEDED, 0),
        ("exit 3", BuildOutcome.FAILED, 3),
        ("kill -9 $$", BuildOutcome.SIGNALLED, 137),
        ("kill -SEGV $$", BuildOutcome.SIGNALLED, 139),
        ("exec /forge/nothing", BuildOutcome.FAILED, 127),
    ],
)
def test_a_build_ends_as_its_builder_does(lab: Lab, script: str, outcome: BuildOutcome, exit_code: int) -> None:
    result, _ = lab.run(lab.request(script))
    assert (result.outcome, result.exit_code) == (outcome, exit_code)


def test_a_builder_that_does_not_exist_is_a_failed_build(own_lab: Lab) -> None:
    result, _ = own_lab.run(replace(own_lab.request(""), argv=("/forge/nothing",)))
    assert (result.outcome, result.exit_code) == (BuildOutcome.FAILED, 127)


def test_ignored_and_blocked_signals_of_forge_do_not_reach_the_build(own_lab: Lab) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        # Without a shell, which has its own mind about signals.
        argv = ("/usr/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
        _, output = own_lab.run(replace(own_lab.request(""), argv=argv))
    finally:
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert [line.split()[1] for line in output.splitlines()] == ["0" * 16] * 2


DAEMON = "(setsid sh -c 'trap \"\" HUP TERM INT; while :; do echo alive >> /build/alive; sleep 0.05; done' &) &"


HOG = """awk 'BEGIN { x = "x"; while (length(x) < 2e8) x = x x; system("sleep 60") }'"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_still(path: Path) -> bool:
    """Whether nobody writes to the file any more."""
    size = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == size


def test_a_daemon_that_holds_the_output_open_neither_delays_nor_survives(lab: Lab) -> None:
    request = lab.request(f"{DAEMON} while [ ! -e /build/alive ]; do sleep 0.01; done; exit 0")
    result, _ = lab.run(request)
    assert result.succeeded
    assert result.seconds < LIMITS.silent_seconds
    assert is_still(request.work / "alive")


@pytest.mark.parametrize(
    ("script", "limits", "outcome"),
    [
        ("while :; do echo x; sleep 0.05; done", replace(LIMITS, wall_seconds=0.5), BuildOutcome.WALL_LIMIT),
        ("trap '' TERM INT; sleep 60", replace(LIMITS, silent_seconds=0.3), BuildOutcome.SILENCE_LIMIT),
        (HOG, replace(LIMITS, memory_bytes=64 << 20), BuildOutcome.MEMORY_LIMIT),
        (
            "for d in /tmp /dev/shm; do dd if=/dev/zero of=$d/x bs=1M count=40; done; sleep 60",
            replace(LIMITS, memory_bytes=64 << 20),
            BuildOutcome.MEMORY_LIMIT,
        ),
        ("for i in $(seq 150); do sleep 60 & done; wait", replace(LIMITS, processes=100), BuildOutcome.PROCESS_LIMIT),
        ("yes", replace(LIMITS, log_bytes=1 << 20), BuildOutcome.LOG_LIMIT),
        ("head -c 2m /dev/zero > /forge/out/big", replace(LIMITS, output_bytes=1 << 20), BuildOutcome.OUTPUT_LIMIT),
        (
            "truncate -s 1073741824 /build/big; sleep 60",
            replace(LIMITS, output_bytes=1 << 20),
            BuildOutcome.OUTPUT_LIMIT,
        ),
        ("cd /forge/out; touch $(seq 20)", replace(LIMITS, output_files=10), BuildOutcome.OUTPUT_LIMIT),
    ],
    ids=["wall", "silence", "memory", "files in memory", "processes", "log", "output", "sparse work", "files"],
)
def test_a_build_is_stopped_at_its_limit(lab: Lab, script: str, limits: Limits, outcome: BuildOutcome) -> None:
    assert lab.outcome(script, limits) is outcome


def test_a_fork_bomb_stays_small_and_dies(home: Path) -> None:
    """Of an ordinary user, whom the kernel limits too: as root a bomb may starve the machine for a while."""
    lab = Lab(home, NOBODY if os.geteuid() == 0 else None)
    # It forks until the kernel refuses and stays as large as that; one whose branches die of the refusal may shrink
    # again between two looks.
    bomb = "(while :; do sleep 60 & done); sleep 60"
    assert lab.outcome(bomb, replace(LIMITS, processes=100)) is BuildOutcome.PROCESS_LIMIT


def test_the_log_of_a_flood_is_as_long_as_the_limit(own_lab: Lab) -> None:
    request = own_lab.request("yes", limits=replace(LIMITS, log_bytes=100_000))
    assert len(own_lab.run(request)[1]) == 100_000


def test_the_log_can_be_read_while_the_build_runs(own_lab: Lab) -> None:
    request = own_lab.request("echo now; while [ ! -e /build/go ]; do sleep 0.05; done")

    def read_then_let_go() -> None:
        wait_for(lambda: request.log.exists() and read_log(request) == "now\n")
        (request.work / "go").touch()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_then_let_go)
        assert BubblewrapExecutor().run(request).succeeded
        reader.result()


def test_memory_that_was_used_is_reported(own_lab: Lab) -> None:
    result, _ = own_lab.run(own_lab.request("head -c 50m /dev/zero > /dev/shm/x; sleep 1.5"))
    assert 50 << 20 <= result.peak_memory_bytes < 60 << 20


def test_a_cancelled_build_is_dead_at_once(lab: Lab) -> None:
    request = lab.request(f"trap '' TERM INT; {DAEMON} sleep 60")
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as stop,
        os.fdopen(writing, "wb", buffering=0) as trigger,
        ThreadPoolExecutor(1) as pool,
    ):

        def cancel_when_alive() -> None:
            wait_for((request.work / "alive").exists)
            trigger.write(b"x")

        pool.submit(cancel_when_alive)
        run = BubblewrapExecutor().run
        result = run_apart(lab.user, lambda: run(request, cancellation=stop))
    assert result.outcome is BuildOutcome.CANCELLED
    assert result.seconds < LIMITS.wall_seconds
    assert is_still(request.work / "alive")


def test_a_reader_of_the_output_that_fails_takes_the_build_with_it(own_lab: Lab) -> None:
    request = own_lab.request(f"{DAEMON} while :; do echo x; done")

    def fail(output: bytes) -> None:
        if (request.work / "alive").exists():
            raise ZeroDivisionError

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        BubblewrapExecutor().run(request, on_output=fail)
    assert is_still(request.work / "alive")
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_run_that_is_interrupted_before_it_waits_leaves_nothing(
    own_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(run: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bubblewrap._SupervisedRun, "wait", interrupt)
    request = own_lab.request("touch /build/ran; sleep 60")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        BubblewrapExecutor().run(request)
    assert not (request.work / "ran").exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_killed_forge_takes_its_sandboxes_with_it(lab: Lab) -> None:
    """Also when pool threads started them: the death signal belongs to the thread that did."""
    requests = [lab.request(f"{DAEMON} sleep 60") for _ in range(2)]
    reading, writing = os.pipe()

    def run_in_pool() -> None:
        os.write(writing, str(os.getpid()).encode())
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(BubblewrapExecutor().run, requests))

    def run_until_killed() -> None:
        with contextlib.suppress(EOFError):
            run_apart(lab.user, run_in_pool)

    outer = threading.Thread(target=run_until_killed)
    outer.start()
    try:
        forge = int(os.read(reading, 32))
        for request in requests:
            wait_for((request.work / "alive").exists)
        os.kill(forge, signal.SIGKILL)
    finally:
        outer.join()
        os.close(reading)
        os.close(writing)
    for request in requests:
        wait_for(lambda alive=request.work / "alive": is_still(alive))  # type: ignore[misc]


def test_runs_side_by_side_do_not_mix_and_leak_no_descriptor(own_lab: Lab) -> None:
    requests = [own_lab.request(f"echo {number} | tee /forge/out/number") for number in range(40)]
    before = set(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(BubblewrapExecutor().run, requests))
    assert all(result.succeeded for result in results)
    assert [(request.out / "number").read_text() for request in requests] == [f"{number}\n" for number in range(40)]
    assert [read_log(request) for request in requests] == [f"{number}\n" for number in range(40)]
    assert set(os.listdir("/proc/self/fd")) == before


# ---- entering a failed build, and machines that cannot build


def test_a_failed_build_can_be_entered_as_it_was_left(lab: Lab) -> None:
    request = lab.request("echo state > /build/state; exit 1")
    assert lab.run(request)[0].outcome is BuildOutcome.FAILED

    def enter() -> str:
        command = BubblewrapExecutor().shell_command(
            request, ("/usr/bin/sh", "-c", "cat state; env; ! unshare -U true")
        )
        with command:
            return subprocess.run(
                command.argv, pass_fds=command.descriptors, env={}, capture_output=True, text=True, check=True
            ).stdout

    output = run_apart(lab.user, enter)
    assert output.startswith("state\n")
    assert "SOURCE_DATE_EPOCH=1\n" in output


def test_a_missing_input_is_an_error_that_says_so(own_lab: Lab) -> None:
    request = own_lab.request("true", mounts=(Mount(own_lab.path / "nothing", "/forge/nothing"),))
    with pytest.raises(ExecutorError) as caught:
        BubblewrapExecutor().run(request)
    assert caught.value.reason == "missing-input"


def test_this_machine_is_found_able_to_build() -> None:
    assert all(finding.ok for finding in availability.probe())


def test_a_machine_without_user_namespaces_refuses_and_names_the_setting(own_lab: Lab) -> None:
    """Tried in a user namespace of its own, whose own limit is zero."""
    code = """
import sys
from pathlib import Path
from mmojo_forge.executor import availability
from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
from mmojo_forge.executor.request import BuildRequest, ExecutorError
Path("/proc/sys/user/max_user_namespaces").write_text("0")
place = Path(sys.argv[1])
try:
    BubblewrapExecutor().run(BuildRequest("x", ("/x",), {}, (), place / "work", place / "out", place / "log"))
except ExecutorError as error:
    print(error.reason, error.exit_code.value, *(finding.reason for finding in availability.probe()))
"""
    request = own_lab.request("")
    answer = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, str(request.work.parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert answer.stdout.split() == ["no-user-namespaces", "3", "no-user-namespaces"]
