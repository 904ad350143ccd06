"""What every Executor does, the fake one and the real one.

Each case is told twice: as a shell script for a real sandbox, and as the script that a fake plays.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
import zstandard

from mmojo_forge.executor import sandbox
from mmojo_forge.executor.bubblewrap import BubblewrapExecutor
from mmojo_forge.executor.fake import FakeExecutor, Script
from mmojo_forge.executor.host_environment import HostEnvironment, VariedExecutor
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, Executor, Mount
from mmojo_forge.model.derivation import Limits


class MakeExecutor(Protocol):
    """Gives the executor under test; one that is not real plays `script`."""

    def __call__(self, script: Script) -> Executor: ...


def make_fake(script: Script) -> Executor:
    return FakeExecutor(script)


def make_bubblewrap(script: Script) -> Executor:
    return BubblewrapExecutor()


def make_surrounded(script: Script) -> Executor:
    environment = {"LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "HOME": "/nowhere"}
    return VariedExecutor(
        HostEnvironment(environment, umask=0o077, folder="/usr", cpus=(0,), uid=4321, hostname="elsewhere")
    )


@pytest.fixture(params=[make_fake, make_bubblewrap, make_surrounded], ids=["fake", "bubblewrap", "surrounded"])
def make(request: pytest.FixtureRequest) -> MakeExecutor:
    maker: MakeExecutor = request.param
    return maker


@pytest.fixture(scope="module")
def userland(tmp_path_factory: pytest.TempPathFactory) -> Path:
    busybox = shutil.which("busybox")
    assert busybox is not None, "install busybox-static"
    programs = tmp_path_factory.mktemp("userland") / "bin"
    programs.mkdir()
    shutil.copy(busybox, programs / "busybox")
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if name != "busybox":
            (programs / name).symlink_to("busybox")
    return programs.parent


class Place:
    """Makes requests in a folder of their own."""

    def __init__(self, path: Path, userland: Path) -> None:
        self.path = path
        self.userland = userland
        self.count = 0

    def request(self, script: str) -> BuildRequest:
        self.count += 1
        work, out = self.path / f"work{self.count}", self.path / f"out{self.count}"
        work.mkdir()
        out.mkdir()
        return BuildRequest(
            name=f"build{self.count}",
            argv=("/usr/bin/sh", "-c", script),
            env=sandbox.sandbox_environment(),
            mounts=(Mount(self.userland, "/usr"),),
            work=work,
            out=out,
            log=self.path / f"log{self.count}",
            limits=Limits(wall_seconds=60),
        )


@pytest.fixture
def place(tmp_path: Path, userland: Path) -> Place:
    return Place(tmp_path, userland)


@pytest.fixture
def cancelled() -> Iterator[int]:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    yield reading
    os.close(reading)
    os.close(writing)


class Descriptor:
    """A cancellation."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def read_log(request: BuildRequest) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(request.log.read_bytes())


def test_a_build_that_succeeds_leaves_outputs_and_a_log(make: MakeExecutor, place: Place) -> None:
    def play(request: BuildRequest) -> bytes:
        (request.out / "file").write_text("content\n")
        return b"done\n"

    request = place.request("echo content > /forge/out/file; echo done")
    chunks: list[bytes] = []
    result = make(play).run(request, on_output=chunks.append)
    assert result.succeeded
    assert (result.outcome, result.exit_code) == (BuildOutcome.SUCCEEDED, 0)
    assert (request.out / "file").read_text() == "content\n"
    assert b"".join(chunks) == read_log(request) == b"done\n"


def test_a_build_that_fails_is_a_result(make: MakeExecutor, place: Place) -> None:
    request = place.request("exit 3")
    result = make(lambda request: BuildResult(BuildOutcome.FAILED, 3, 0.1)).run(request)
    assert not result.succeeded
    assert (result.outcome, result.exit_code) == (BuildOutcome.FAILED, 3)


def test_a_silent_build_has_an_empty_log(make: MakeExecutor, place: Place) -> None:
    request = place.request("true")
    chunks: list[bytes] = []
    assert make(lambda request: b"").run(request, on_output=chunks.append).succeeded
    assert read_log(request) == b""
    assert chunks == []


def test_a_log_beyond_its_limit_ends_the_build(make: MakeExecutor, place: Place) -> None:
    request = place.request("yes")
    request = replace(request, limits=replace(request.limits, log_bytes=1000))
    result = make(lambda request: b"y\n" * 1000).run(request)
    assert result.outcome is BuildOutcome.LOG_LIMIT
    assert read_log(request) == b"y\n" * 500


def test_a_build_that_nobody_wants_any_more_is_cancelled(make: MakeExecutor, place: Place, cancelled: int) -> None:
    request = place.request("sleep 60")
    result = make(lambda request: b"").run(request, cancellation=Descriptor(cancelled))
    assert result.outcome is BuildOutcome.CANCELLED
    assert not result.succeeded
    assert read_log(request) == b""


def test_a_cancellation_that_never_comes_changes_nothing(make: MakeExecutor, place: Place) -> None:
    reading, writing = os.pipe()
    result = make(lambda request: b"").run(place.request("true"), cancellation=Descriptor(reading))
    os.close(reading)
    os.close(writing)
    assert result.succeeded


def test_an_executor_serves_several_threads(make: MakeExecutor, place: Place) -> None:
    executor = make(lambda request: request.name.encode())
    requests = [place.request(f"printf build{number}") for number in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        assert all(result.succeeded for result in pool.map(executor.run, requests))
    assert [read_log(request).decode() for request in requests] == [request.name for request in requests]


def test_a_fake_remembers_what_it_was_asked(place: Place) -> None:
    executor = FakeExecutor()
    request = place.request("true")
    assert executor.run(request).succeeded
    assert executor.requests == [request]
