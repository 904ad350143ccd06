"""Where a rebuild takes place, that nothing is left there, and what a verdict says when there is none."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmojo_forge.engine.check import check
from mmojo_forge.engine.check.check import choose_place, other_place
from mmojo_forge.engine.check.checker import CheckError, CheckReport, CheckVerdict, OutputVerdict
from mmojo_forge.engine.check.variations import VariationContext, varied_in
from mmojo_forge.engine.errors import BadOutput
from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.model.derivation import INHERENT, Aspect, Derivation
from mmojo_forge.model.digest import ActionKey, TreeId

NODE = Derivation("node", "/bin/true", (), {}, {})
ONE, OTHER = TreeId("1" * 64), TreeId("2" * 64)


def test_a_place_is_gone_afterwards_with_all_in_it(tmp_path: Path) -> None:
    with other_place(tmp_path) as place:
        (place / "locked").mkdir()
        (place / "locked/file").write_text("")
        (place / "locked").chmod(0o500)
        assert list(tmp_path.iterdir()) == [place]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_check_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    (tmp_path / "forge-check-dead/store").mkdir(parents=True)
    (tmp_path / "forge-check-file").write_text("")
    (tmp_path / "another").mkdir()
    (tmp_path / "forge-check-link").symlink_to("another")
    with other_place(tmp_path) as first, other_place(tmp_path) as second:
        left = {"another", "forge-check-file", "forge-check-link", first.name, second.name}
        assert {path.name for path in tmp_path.iterdir()} == left


def test_a_place_that_is_taken_for_abandoned_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    lock = check._lock

    def remove_the_first(place: Path) -> int | None:
        made.append(place)
        if len(made) == 1:
            place.rmdir()
        return lock(place)

    monkeypatch.setattr(check, "_lock", remove_the_first)
    with other_place(tmp_path) as place:
        assert [place] == made[1:]
        descriptor = os.open(place, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_a_place_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "forge-check-dead").mkdir()
    before = os.listdir("/proc/self/fd")
    with other_place(tmp_path):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(CheckError) as raised, other_place(Path("/proc")):
        pass
    assert (raised.value.reason, raised.value.exit_code) == ("scratch-unusable", ExitCode.ENVIRONMENT_ERROR)


def test_a_folder_where_nothing_can_be_executed_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers mount /dev/shm."""
    store = tmp_path / "store"
    store.mkdir()
    noexec: set[Path] = set()
    monkeypatch.setattr(check, "_has_room", lambda _: True)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC if path in noexec else 0))
    chosen = choose_place(store, None)
    noexec.add(chosen)
    assert choose_place(store, None) != chosen
    noexec.add(tmp_path)
    with pytest.raises(CheckError) as raised:
        choose_place(store, tmp_path)
    assert raised.value.reason == "scratch-unusable"


def test_the_folder_that_is_wanted_is_taken(tmp_path: Path) -> None:
    assert choose_place(tmp_path / "store", tmp_path) == tmp_path


def verdict(*outputs: OutputVerdict, failure: ForgeError | None = None) -> CheckVerdict:
    return CheckVerdict(NODE, ActionKey("0" * 64), INHERENT, outputs, failure=failure)


SAME, DIFFERENT = OutputVerdict("out", ONE, ONE), OutputVerdict("out", ONE, OTHER)
FAILED, IMPOSSIBLE = BadOutput("", reason=""), CheckError("", reason="")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([verdict(SAME)], ExitCode.DONE),
        ([verdict(SAME, DIFFERENT)], ExitCode.BUILD_FAILED),
        ([verdict(SAME), verdict(failure=FAILED)], ExitCode.BUILD_FAILED),
        ([verdict(DIFFERENT), verdict(failure=IMPOSSIBLE), verdict(failure=FAILED)], ExitCode.ENVIRONMENT_ERROR),
        ([verdict(SAME, failure=IMPOSSIBLE)], ExitCode.ENVIRONMENT_ERROR),
        ([verdict()], ExitCode.BUILD_FAILED),
    ],
)
def test_only_what_was_rebuilt_and_came_out_the_same_is_identical(verdicts: list[CheckVerdict], code: ExitCode) -> None:
    report = CheckReport((), tuple(verdicts), {})
    assert report.exit_code is code
    assert report.identical is (code is ExitCode.DONE)


def test_what_a_node_cannot_notice_does_not_count_as_varied() -> None:
    every = frozenset(Aspect)
    assert varied_in(NODE, every) == every - {Aspect.PARALLELISM}
    assert varied_in(replace(NODE, parallel=True), every) == every
    assert varied_in(replace(NODE, builder="builtin:unpack"), every) == INHERENT


def make_context(folder: Path, **more: object) -> VariationContext:
    given: dict[str, object] = {
        "usual_store": folder,
        "other_store": folder,
        "jobs": 2,
        "cpus": (0, 1),
        "clock": None,
        "files": folder,
        "environment": {},
    }
    return VariationContext(**{**given, **more})  # type: ignore[arg-type]


def refused(context: VariationContext) -> dict[Aspect, str]:
    return {one.aspect: one.refused for one in context.variations() if one.refused}


def test_what_is_the_other_way_here_anyway_is_not_called_varied(tmp_path: Path) -> None:
    usual = refused(make_context(tmp_path))
    assert not usual.keys() & {Aspect.LOCALE, Aspect.TIME_ZONE}
    there = make_context(tmp_path, environment={"LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"})
    assert refused(there).keys() == usual.keys() | {Aspect.LOCALE, Aspect.TIME_ZONE}


def test_a_clock_that_is_no_clock_is_not_varied(tmp_path: Path) -> None:
    assert Aspect.CLOCK in refused(make_context(tmp_path))
    assert Aspect.CLOCK in refused(make_context(tmp_path, clock=tmp_path))
    library = tmp_path / "lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\0time\0utime\0utimensat\0")
    context = make_context(tmp_path, clock=tmp_path)
    assert Aspect.CLOCK not in refused(context)
    mounts = {mount.at: mount.source for mount in context.host_environment([Aspect.CLOCK], 0).mounts}
    preloaded = mounts["/etc/ld.so.preload"].read_text().strip()
    assert mounts[preloaded].read_bytes() == b"\0time\0-----\0---------\0"
