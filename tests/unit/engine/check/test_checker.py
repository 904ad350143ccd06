"""The checker without the command line: what is a finding about a build, and what only about this machine."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmojo_forge.engine.check.checker import Checker, CheckReport, CheckVerdict
from mmojo_forge.engine.check.variations import VariationContext
from mmojo_forge.engine.protocols import SourceFetcher
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.services import Directories, Services
from mmojo_forge.errors import ExitCode
from mmojo_forge.executor.request import Executor
from mmojo_forge.model.derivation import Aspect, Derivation, Input, LocalSource
from mmojo_forge.model.digest import TreeId
from mmojo_forge.store.local import LocalStore

EVERY = frozenset({Aspect.ORDER, Aspect.CPU_MODEL, Aspect.UMASK, Aspect.TIME})


class Listening(Reporter):
    """Remembers warnings and what builds said."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.said: list[bytes] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def output(self, node: object, chunk: bytes) -> None:
        self.said.append(chunk)


def nobody() -> Executor:
    raise AssertionError


def no_fetcher() -> SourceFetcher:
    raise AssertionError


class Place:
    """A store with a shell in it, and a checker that rebuilds in two others."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.store, self.shuffled, self.plain = (
            stack.enter_context(LocalStore.open(folder / name)) for name in ("store", "shuffled", "plain")
        )
        self.files = folder / "place" / "files"
        self.files.mkdir(parents=True)
        self.reporter = Listening()
        program = shutil.which("busybox")
        assert program is not None, "install busybox-static"
        self.shell = LocalSource("busybox", program, self.store.add_path(Path(program).resolve()).id)
        (folder / "expected").write_text("expected\n")
        self.expected = self.store.add_path(folder / "expected").id

    def node(self, script: str, name: str = "it") -> Derivation:
        shell = Input(self.shell, "out", "/forge/busybox")
        return Derivation(name, "/forge/busybox", ("sh", "-euc", script), {}, {"busybox": shell})

    def check(self, *nodes: Derivation, bisect: bool = False, expected: TreeId | None = None) -> list[CheckVerdict]:
        cpus = tuple(os.sched_getaffinity(0))
        context = VariationContext(self.store.path, self.shuffled.path, 2, cpus, None, self.files, {})
        directories = Directories(self.folder / "downloads", self.folder / "failed")
        services = Services(self.store, nobody, no_fetcher, self.reporter, time.time, directories)
        checker = Checker(services, self.shuffled, self.plain, context, self.folder / "store/checks", bisect=bisect)
        trees = {"out": expected or self.expected}
        return checker.check(nodes, dict.fromkeys((node.id for node in nodes), trees), EVERY)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def test_what_comes_out_as_expected_is_identical_and_nothing_is_kept(place: Place) -> None:
    (verdict,) = place.check(place.node("echo expected > /forge/out/out"))
    assert (verdict.identical, verdict.failure, verdict.kept, verdict.varied) == (True, None, None, EVERY)
    assert not (place.folder / "store/checks").exists()
    assert list(place.files.glob("failed-*")) == []


def test_nodes_of_one_name_may_fail_at_the_same_time(place: Place) -> None:
    """What a failed build leaves may be locked, as for an ordinary user; each has a folder of its own."""
    leave = "mkdir locked; > locked/file; chmod 500 locked; sleep 0.2; exit"
    nodes = [place.node(f"{leave} {code}", "twin") for code in (1, 2, 3, 4)]
    for verdict, node in zip(place.check(*nodes), nodes, strict=True):
        assert verdict.failure is not None
        assert verdict.failure.reason == "build-failed"
        assert f"exit code {node.args[2][-1]}" in verdict.failure.message
        assert verdict.kept == place.folder / f"store/checks/twin-{node.id[:12]}"
    assert list(place.files.glob("failed-*")) == []


def test_a_cause_is_looked_for_under_the_same_conditions(place: Place) -> None:
    usual = "! grep -q 'no such CPU' /proc/cpuinfo"
    (verdict,) = place.check(place.node(f"echo expected > /forge/out/out; {usual}"), bisect=True)
    assert verdict.failure
    assert verdict.cause
    assert (verdict.cause.aspects, verdict.cause.together, verdict.cause.unstable) == (
        (Aspect.CPU_MODEL,),
        False,
        False,
    )
    tried = [line for line in place.reporter.said if line.startswith(b"forge check: ")]
    assert tried[:2] == [b"forge check: rebuild with nothing varied\n"] * 2
    assert b"forge check: rebuild with umask varied\n" in tried


def full(_: object) -> SimpleNamespace:
    return SimpleNamespace(free=0)


def test_a_build_that_fails_where_no_room_is_left_is_the_machines_fault(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full)
    (verdict,) = place.check(place.node("exit 1"), bisect=True)
    assert verdict.failure
    assert verdict.failure.reason == "rebuild-impossible"
    assert (verdict.cause, verdict.kept) == (None, None)
    assert CheckReport((), (verdict,), {}).exit_code is ExitCode.ENVIRONMENT_ERROR


def test_a_difference_stays_one_when_room_runs_out_while_its_cause_is_looked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full)
    script = "echo other > /forge/out/out; ! grep -q 'no such CPU' /proc/cpuinfo && exit 1; true"
    (verdict,) = place.check(place.node(script), bisect=True)
    assert (verdict.identical, verdict.failure, verdict.cause) == (False, None, None)
    assert [output.identical for output in verdict.outputs] == [False]
    (warning,) = place.reporter.warnings
    assert "No space left" in warning


def test_what_cannot_be_kept_is_a_difference_all_the_same(place: Place) -> None:
    (place.folder / "store/checks").write_text("in the way")
    (verdict,) = place.check(place.node("echo other > /forge/out/out"))
    assert (verdict.identical, verdict.failure, verdict.kept) == (False, None, None)
    assert len(place.reporter.warnings) == 1


Break = Callable[[Place], None]


def lose_the_expected(place: Place) -> None:
    for path in (place.folder / "store/blobs").rglob("*"):
        if path.is_file() and path.read_bytes() == b"expected\n":
            path.unlink()


def lose_the_scratch(place: Place) -> None:
    place.files.rmdir()


@pytest.mark.parametrize("ruin", [lose_the_expected, lose_the_scratch])
def test_a_store_or_place_that_is_broken_is_told_and_not_taken_for_identical(place: Place, ruin: Break) -> None:
    ruin(place)
    (verdict,) = place.check(place.node("echo other > /forge/out/out"))
    assert not verdict.identical
    assert verdict.failure
    assert verdict.failure.exit_code is not ExitCode.BUILD_FAILED
