"""The shifted clock of `forge check`, in the sandbox: another date for dynamic programs, and nothing else is another.

By design the times of files are the machine's, for every program: a file that was written just now is older than the
program's own clock says, by as much as that is shifted, and never newer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmojo_forge.engine.check.variations import VariationContext
from mmojo_forge.executor import sandbox
from mmojo_forge.executor.host_environment import VariedExecutor
from mmojo_forge.executor.request import BuildRequest, Mount
from mmojo_forge.model.derivation import Aspect, Limits
from tests.conftest import realize

pytestmark = pytest.mark.toolchain

SHIFT = 400 * 86_400
SOON = 120  # seconds that a machine under load may take for what takes none

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def objects() -> list[Path]:
    return realize("userland", "faketime")


@pytest.fixture
def run(tmp_path: Path, objects: list[Path], busybox: Path) -> Run:
    """Runs a shell script with the clock shifted; what it prints. Its /forge/out is `tmp_path/out`."""
    for name in ("work", "out", "files"):
        (tmp_path / name).mkdir()
    userland, clock = objects
    cpus = tuple(os.sched_getaffinity(0))
    context = VariationContext(tmp_path, tmp_path, len(cpus), cpus, clock, tmp_path / "files", {})
    executor = VariedExecutor(context.host_environment([Aspect.CLOCK], cpus[0]))

    def run_script(script: str) -> str:
        request = BuildRequest(
            name="clock",
            argv=("/usr/bin/bash", "-euc", f"cd /forge/out\n{script}"),
            env=sandbox.sandbox_environment(),
            mounts=(Mount(userland, "/usr"), Mount(busybox, "/forge/busybox")),
            work=tmp_path / "work",
            out=tmp_path / "out",
            log=tmp_path / "log",
            limits=Limits(wall_seconds=SOON),
        )
        chunks: list[bytes] = []
        result = executor.run(request, on_output=chunks.append)
        said = b"".join(chunks).decode()
        assert result.succeeded, f"{result}\n{said}"
        return said

    return run_script


def about(expected: float) -> object:
    return pytest.approx(expected, abs=SOON)


ASK = {
    "coreutils": "date +%s",
    "bash": "printf '%(%s)T\\n' -1",
    "python": "python3 -c 'import time; print(time.time())'",
    "perl": "perl -le 'print time'",
    "gawk": "gawk 'BEGIN { print systime() }'",
    "make": "printf 'all:\\n\\t@date +%%s\\n' | make -f -",
}


@pytest.mark.parametrize("program", ASK)
def test_the_date_is_shifted_for_what_is_dynamically_linked(run: Run, program: str) -> None:
    assert float(run(ASK[program])) == about(time.time() + SHIFT)


def test_static_programs_see_the_real_date(run: Run) -> None:
    assert float(run("/forge/busybox date +%s")) == about(time.time())


def test_the_monotonic_clock_is_the_machines(run: Run) -> None:
    """Sandboxes have no time namespace, so that it is the same inside and outside."""
    clocks = "CLOCK_MONOTONIC", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW"
    program = "; ".join(f"print(time.clock_gettime(time.{clock}))" for clock in clocks)
    seen = [float(line) for line in run(f"python3 -c 'import time; {program}'").splitlines()]
    assert seen == [about(time.clock_gettime(getattr(time, clock))) for clock in clocks]


WAITS = """
import queue, select, subprocess, threading, time
def wait(what):
    began = time.monotonic()
    what()
    print(time.monotonic() - began)
def empty():
    try:
        queue.Queue().get(timeout=0.2)
    except queue.Empty:
        pass
def expired():
    try:
        subprocess.run(["sleep", "100"], timeout=0.2)
    except subprocess.TimeoutExpired:
        pass
condition = threading.Condition()
condition.acquire()
wait(lambda: time.sleep(0.2))
wait(lambda: threading.Event().wait(0.2))
wait(lambda: condition.wait(0.2))
wait(lambda: select.select([], [], [], 0.2))
wait(empty)
wait(expired)

import ctypes
libc = ctypes.CDLL(None)
class Time(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]
class Timer(ctypes.Structure):
    _fields_ = [("interval", Time), ("value", Time)]
def soon(clock):
    nanoseconds = time.clock_gettime_ns(clock) + 200_000_000
    return Time(nanoseconds // 10**9, nanoseconds % 10**9)
def until_monotonic():
    assert libc.clock_nanosleep(time.CLOCK_MONOTONIC, 1, ctypes.byref(soon(time.CLOCK_MONOTONIC)), None) == 0
def until_timer():
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    assert libc.timerfd_settime(timer, 1, ctypes.byref(Timer(Time(), soon(time.CLOCK_MONOTONIC))), None) == 0
    select.select([timer], [], [], 60)
def until_date():
    condition, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    assert libc.pthread_cond_timedwait(condition, mutex, ctypes.byref(soon(time.CLOCK_REALTIME))) == 110
def semaphore():
    assert libc.sem_timedwait(ctypes.create_string_buffer(64), ctypes.byref(soon(time.CLOCK_REALTIME))) == -1
wait(until_monotonic)
wait(until_timer)
wait(until_date)
wait(semaphore)
"""


def test_programs_wait_as_long_as_they_mean_to(run: Run) -> None:
    script = f"cat > wait.py <<'END'\n{WAITS}END\npython3 wait.py; timeout 0.2 sleep 100 || echo 0.2; sleep 0.2"
    waited = [float(line) for line in run(script).splitlines()]
    assert len(waited) == 11
    assert all(0.19 < seconds < 60 for seconds in waited), waited


SAY_MTIME = {
    "stat": "stat -c %Y",
    "date": "date +%s -r",
    "find": "find -name file -printf '%Ts\\n'; true",
    "perl": "perl -le 'print +(stat shift)[9]'",
    "perl, no link": "perl -le 'print +(lstat shift)[9]'",
    "python": "python3 -c 'import os, sys; print(int(os.stat(sys.argv[1]).st_mtime))'",
    "python, no link": "python3 -c 'import os, sys; print(int(os.lstat(sys.argv[1]).st_mtime))'",
    "python, open": "python3 -c 'import os, sys; print(int(os.fstat(os.open(sys.argv[1], 0)).st_mtime))'",
    "python, below": 'python3 -c \'import os; print(int(os.stat("file", dir_fd=os.open(".", 0)).st_mtime))\'',
    "ls": "ls -l --time-style=+%s file | cut -d' ' -f6; true",
    "static": "/forge/busybox stat -c %Y",
}


def test_all_programs_agree_that_a_file_that_was_written_has_the_machines_time(run: Run, tmp_path: Path) -> None:
    said = run("echo > file\n" + "\n".join(f"{ask} file" for ask in SAY_MTIME.values()))
    real = os.stat(tmp_path / "out/file").st_mtime
    assert real == about(time.time())
    assert dict(zip(SAY_MTIME, map(int, said.splitlines()), strict=True)) == dict.fromkeys(SAY_MTIME, int(real))


def test_no_file_is_newer_than_the_clock_of_who_wrote_it(run: Run) -> None:
    program = "import os, time; open('f', 'w').close(); print(time.time() - os.stat('f').st_mtime)"
    assert float(run(f'python3 -c "{program}"')) == about(SHIFT)


TOUCH = {
    "touch": "touch file",
    "touch -m": "touch -m file",
    "python": "python3 -c 'import os; os.utime(\"file\")'",
    "python, open": "python3 -c 'import os; os.utime(os.open(\"file\", 1))'",
    "perl": "perl -e 'utime undef, undef, \"file\"'",
    "static": "/forge/busybox touch file",
}


@pytest.mark.parametrize("how", TOUCH)
def test_now_is_the_same_moment_for_what_is_touched_and_what_is_written(run: Run, tmp_path: Path, how: str) -> None:
    run(f"echo > file; /forge/busybox touch -d @5 file; {TOUCH[how]}; echo > later")
    touched, written = (os.stat(tmp_path / "out" / name).st_mtime for name in ("file", "later"))
    assert touched == about(time.time())
    assert touched <= written


SET = {
    "touch": "touch -d @{} file",
    "touch -r": "/forge/busybox touch -d @{0} other; touch -r other file",
    "cp -p": "/forge/busybox touch -d @{0} other; cp -p other file",
    "install -p": "/forge/busybox touch -d @{0} other; install -p other file",
    "tar": "/forge/busybox touch -d @{0} file; tar -cf it.tar file; rm file; tar -xf it.tar",
    "python": "python3 -c 'import os; os.utime(\"file\", ({0}, {0}))'",
    "python, copied": 'touch -d @{0} other; python3 -c \'import shutil; shutil.copy2("other", "file")\'',
    "perl": "perl -e 'utime {0}, {0}, \"file\"'",
}


@pytest.mark.parametrize("how", SET)
@pytest.mark.parametrize("when", [1, 315_532_800, 1_700_000_000])
def test_a_time_that_a_file_is_given_comes_back(run: Run, tmp_path: Path, how: str, when: int) -> None:
    said = run(f"echo > file; echo > other; {SET[how].format(when)}; {SAY_MTIME['python']} file")
    assert float(said) == os.stat(tmp_path / "out/file").st_mtime == when


# As the Automake's: files that make itself makes anew, and includes, some touched, some copied, some written.
MAKEFILE = """
all: program
rules.mk: config.status
\t./config.status > rules.mk
config.status: configure
\tcp -p configure config.status
\ttouch config.status
configure: configure.in
\tcp configure.in configure
\ttouch configure
stamp: configure
\tcat configure > source
\ttouch stamp
program: stamp rules.mk
\tcp -p source program
\tcat source >> program
include rules.mk
"""


def test_make_comes_to_an_end_and_sees_no_file_in_the_future(run: Run) -> None:
    said = run(
        f"printf '#!/bin/sh\\necho \"# no rules\"\\n' > configure.in; chmod +x configure.in\n"
        f"cat > Makefile <<'END'\n{MAKEFILE}END\nmake 2>&1; echo second; make 2>&1; sleep 1; make 2>&1"
    )
    first, _, rest = said.partition("second\n")
    assert first.count("touch configure") == 1
    assert rest.splitlines() == ["make: Nothing to be done for 'all'."] * 2
    assert not [word for word in ("skew", "future", "libfaketime", "ERROR") if word in said]
