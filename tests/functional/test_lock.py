"""forge.lock and forge.outputs: what each command writes, what it says, and what merging with git comes to."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.model.digest import DerivationId, Sha256, TreeId
from mmojo_forge.model.lockfile import ExpectedOutput, Lock, LockConflict, dump_outputs, parse_outputs
from tests.functional.conftest import REPOSITORY, Forge

RECIPE = '@recipe("{name}")\ndef f():\n    return sh("{name}", "echo {text} > /forge/out/out")\n'
LUCK = '@recipe("luck")\ndef f():\n    return sh("luck", "cat /proc/sys/kernel/random/uuid > /forge/out/out")'


def write(forge: Forge, **texts: str) -> None:
    for name, text in texts.items():
        forge.recipe(name, RECIPE.format(name=name, text=text))


def outputs_of(forge: Forge) -> dict[str, ExpectedOutput]:
    return parse_outputs((forge.root / "forge.outputs").read_text())


def answer(forge: Forge, *arguments: str, expect: int = 0) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(forge.run("lock", *arguments, "--json", expect=expect).stdout)
    return fields


def test_outputs_are_written_by_their_own_option_and_kept_by_everything_else(forge: Forge) -> None:
    write(forge, a="1", b="1")
    forge.realize("a", "b")
    forge.run("lock")
    assert not (forge.root / "forge.outputs").exists()
    assert answer(forge, "--outputs", "a")["new"] == ["a"]
    assert list(outputs_of(forge)) == ["a"]
    assert answer(forge, "--outputs")["new"] == ["b", "busybox"]
    first = (forge.root / "forge.outputs").read_text()

    write(forge, a="2", b="2")
    forge.run("lock")
    assert (forge.root / "forge.outputs").read_text() == first
    done = forge.run("lock", "--check")
    assert done.stdout.splitlines() == ["stale output: a", "stale output: b"]
    assert answer(forge, "--check")["stale_outputs"] == ["a", "b"]

    forge.realize("a")
    assert forge.error("lock", "--outputs", "a", "b")["reason"] == "not-built"
    done = forge.run("lock", "--outputs")
    assert done.stdout.splitlines() == ["changed: a", "stale: b"]
    before, after = parse_outputs(first), outputs_of(forge)
    assert (after["b"], after["busybox"]) == (before["b"], before["busybox"])
    assert after["a"].derivation != before["a"].derivation


@pytest.mark.parametrize(
    "arguments",
    [("a",), ("--outputs", "--check"), ("--outputs", "--update", "a"), ("--accept",), ("--outputs", "--accept")],
)
def test_options_that_do_not_go_together_are_a_usage_error(forge: Forge, arguments: tuple[str, ...]) -> None:
    forge.run("lock", *arguments, expect=2)


def test_another_tree_of_the_same_derivation_is_accepted_only_by_name(forge: Forge) -> None:
    forge.recipe("luck", LUCK)
    forge.realize("luck")
    forge.run("lock", "--outputs")
    first = outputs_of(forge)["luck"]
    forge.environment = {"FORGE_STORE": str(forge.root / "another store")}
    assert forge.error("realize", "luck", expect=1)["reason"] == "unexpected-output"
    assert forge.error("lock", "--outputs", expect=1)["reason"] == "unexpected-output"
    assert outputs_of(forge)["luck"] == first
    assert answer(forge, "--check", expect=2)["wrong"] == ["output luck"]
    assert answer(forge, "--outputs", "--accept", "luck")["accepted"] == ["luck"]
    assert answer(forge, "--check")["wrong"] == []
    forge.realize("luck")
    forge.environment = {}
    assert forge.error("realize", "luck", expect=1)["reason"] == "unexpected-output"


def test_a_no_op_notices_an_expectation_that_changes_or_comes(forge: Forge) -> None:
    write(forge, a="1")
    time.sleep(0.1)
    forge.run("realize", "a")
    assert list((forge.store / "cache/evaluation").iterdir())
    derivation = json.loads(forge.run("show", "a", "--json").stdout)["derivation"]
    path = forge.root / "forge.outputs"
    for tree in ("0" * 64, "1" * 64):
        path.write_text(dump_outputs({"a": ExpectedOutput("a", DerivationId(derivation), TreeId(tree))}))
        # Without options, as only that is answered from the cache.
        assert "forge.outputs expects" in forge.run("realize", "a", expect=1).stderr
    path.write_text("damaged\n")
    assert "damaged" not in forge.run("realize", "a", expect=2).stdout
    path.unlink()
    forge.run("realize", "a")


def test_a_recipe_that_changes_during_a_build_is_evaluated_again(forge: Forge) -> None:
    slow = '@recipe("a")\ndef f():\n    return sh("a", "echo 1 > /forge/out/out; sleep 2")\n'
    forge.recipe("a", slow)
    time.sleep(0.1)
    with forge.start("realize", "a") as process:
        assert process.stderr is not None
        assert any(line == "build a\n" for line in process.stderr)
        write(forge, a="2")
        process.communicate(timeout=60)
    assert Path(forge.run("realize", "a").stdout.strip()).read_text() == "2\n"


def test_a_wrong_digest_beside_a_right_one_is_found_where_the_file_is(forge: Forge) -> None:
    path = forge.root / "forge.lock"
    lock = Lock.parse(path.read_text())
    [(name, land)] = lock.userlands.items()
    [(package, pin)] = land.closure.items()
    wrong = replace(land, closure={package: replace(pin, sha256=Sha256("0" * 64))})
    path.write_text(Lock(userlands={name: wrong}).dump())
    assert answer(forge, "--check")["wrong"] == []
    path.write_text(lock.dump())
    forge.realize("busybox")
    path.write_text(Lock(userlands={name: wrong}).dump())
    report = answer(forge, "--check", expect=2)
    assert (report["wrong"], report["stale"]) == ([f"sha256 of {pin.name}"], [])


# Locks from before forge.outputs


def old_workspace(forge: Forge) -> str:
    """What forge.lock is after the move; now it still has the expected outputs, and there is no other file."""
    write(forge, a="1")
    forge.realize("a")
    forge.run("lock", "--outputs")
    pins, outputs = forge.root / "forge.lock", forge.root / "forge.outputs"
    after = pins.read_text()
    pins.write_text(after + "\n" + outputs.read_text().partition("schema = 1\n\n")[2])
    outputs.unlink()
    return after


def test_an_old_lock_is_heeded_and_moved_by_forge_lock(forge: Forge) -> None:
    after = old_workspace(forge)
    path = forge.root / "forge.lock"
    text = path.read_text()
    old = Lock.parse(text)
    path.write_text(text.replace(old.outputs["a"].tree, "0" * 64))
    assert forge.error("realize", "a", expect=1)["reason"] == "unexpected-output"
    path.write_text(text)
    forge.realize("a")
    forge.run("lock", "--check")
    assert path.read_text() == text
    forge.run("lock")
    assert path.read_text() == after
    assert outputs_of(forge) == old.outputs
    forge.realize("a")


KILLED_AFTER_ONE_FILE = """
import os, signal, sys
from pathlib import Path
from mmojo_forge.engine.workspace import Workspace

rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_and_die
workspace = Workspace.find(Path(sys.argv[1]))
workspace.write_lock(workspace.read_lock())
"""


def test_a_kill_between_the_two_files_loses_nothing(forge: Forge) -> None:
    after = old_workspace(forge)
    text = (forge.root / "forge.lock").read_text()
    command = [sys.executable, "-c", KILLED_AFTER_ONE_FILE, str(forge.root)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False, timeout=60).returncode == -signal.SIGKILL
    assert (forge.root / "forge.lock").read_text() == text
    assert outputs_of(forge) == Lock.parse(text).outputs
    forge.run("lock", "--check")
    forge.realize("a")
    forge.run("lock")
    assert (forge.root / "forge.lock").read_text() == after
    assert outputs_of(forge) == Lock.parse(text).outputs


# Merges


NAMES = ("a", "a.b", "b", "c-d", "e")
BASE = {name: ExpectedOutput(name, DerivationId("0" * 64), TreeId("1" * 64)) for name in NAMES}


def merged(tmp_path: Path, base: str, ours: str, theirs: str) -> tuple[int, str]:
    """How many conflicts git finds, and the text it leaves."""
    files = [tmp_path / name for name in ("ours", "base", "theirs")]
    for file, text in zip(files, (ours, base, theirs), strict=True):
        file.write_text(text)
    done = subprocess.run(["git", "merge-file", "-p", *files], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def changed(*names: str, digit: str, base: dict[str, ExpectedOutput] | None = None) -> dict[str, ExpectedOutput]:
    base = BASE if base is None else base
    new = {name: ExpectedOutput(name, DerivationId(digit * 64), TreeId(digit * 64)) for name in names}
    return {**base, **new}


@pytest.mark.parametrize(("mine", "yours"), list(itertools.combinations(NAMES, 2)))
def test_changes_to_different_targets_merge(tmp_path: Path, mine: str, yours: str) -> None:
    ours, theirs = changed(mine, digit="a"), changed(yours, digit="b")
    conflicts, text = merged(tmp_path, dump_outputs(BASE), dump_outputs(ours), dump_outputs(theirs))
    assert conflicts == 0
    assert parse_outputs(text) == {**ours, yours: theirs[yours]}


@pytest.mark.parametrize("both", [True, False], ids=["both lines", "a line each"])
def test_changes_to_one_target_conflict_and_either_side_resolves_it(tmp_path: Path, both: bool) -> None:
    """Also where one side has a new derivation of the old tree, and the other the old derivation of a new tree."""
    a, b = changed("b", digit="a")["b"], changed("b", digit="b")["b"]
    if not both:
        a, b = replace(a, tree=BASE["b"].tree), replace(b, derivation=BASE["b"].derivation)
    ours, theirs = {**BASE, "b": a}, {**BASE, "b": b}
    conflicts, text = merged(tmp_path, dump_outputs(BASE), dump_outputs(ours), dump_outputs(theirs))
    assert conflicts == 1
    with pytest.raises(LockConflict) as caught:
        parse_outputs(text)
    assert (caught.value.changed, caught.value.added) == (("output b",), ())
    before, rest = text.split("<<<<<<< ")
    mine, yours = rest.partition("\n")[2].split("=======\n")
    yours, after = yours.split(">>>>>>> ")
    after = after.partition("\n")[2]
    assert parse_outputs(before + mine + after) == ours
    assert parse_outputs(before + yours + after) == theirs


def test_new_targets_in_one_place_conflict_and_both_stay(tmp_path: Path) -> None:
    ours, theirs = changed("bb", digit="a"), changed("bc", digit="b")
    conflicts, text = merged(tmp_path, dump_outputs(BASE), dump_outputs(ours), dump_outputs(theirs))
    assert conflicts == 1
    with pytest.raises(LockConflict) as caught:
        parse_outputs(text)
    assert caught.value.changed == ()
    assert set(caught.value.added) == {"output bb", "output bc"}


def test_a_conflict_is_told_with_what_to_do_and_that_works(forge: Forge, tmp_path: Path) -> None:
    write(forge, a="1")
    forge.realize("a")
    forge.run("lock", "--outputs")
    path = forge.root / "forge.outputs"
    base = outputs_of(forge)
    conflicts, text = merged(
        tmp_path,
        dump_outputs(base),
        dump_outputs(changed("a", digit="a", base=base)),
        dump_outputs(changed("a", digit="b", base=base)),
    )
    assert conflicts == 1
    path.write_text(text)
    for arguments in (("realize", "a"), ("lock", "--check"), ("lock", "--outputs", "a")):
        error = forge.error(*arguments)
        assert error["reason"] == "lock-conflict"
        assert "output a" in error["detail"]
    path.write_text(dump_outputs(changed("a", digit="b", base=base)))
    assert answer(forge, "--outputs", "a")["changed"] == ["a"]
    assert outputs_of(forge) == base


def test_a_conflict_in_the_lock_is_mended_by_either_side_and_forge_lock(forge: Forge, tmp_path: Path) -> None:
    write(forge, a="1")
    path = forge.root / "forge.lock"
    lock = Lock.parse(path.read_text())
    land = lock.userlands["busybox"]

    def pinned(digit: str) -> str:
        closure = {name: replace(pin, sha256=Sha256(digit * 64)) for name, pin in land.closure.items()}
        return Lock(userlands={"busybox": replace(land, closure=closure)}).dump()

    conflicts, text = merged(tmp_path, pinned("a"), pinned("b"), lock.dump())
    assert conflicts == 1
    path.write_text(text)
    error = forge.error("realize", "a")
    assert error["reason"] == "lock-conflict"
    assert "userland busybox package busybox-static" in error["detail"]
    path.write_text(lock.dump())
    forge.run("lock")
    assert path.read_text() == lock.dump()
