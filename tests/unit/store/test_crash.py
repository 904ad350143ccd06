"""Kills and company: a store that is killed at any call verifies clean, and several processes share one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmojo_forge.store.local import LocalStore
from tests.support.killed import in_child_killed_at

PRELUDE = """
import os, random, sys
from pathlib import Path
from mmojo_forge.store.local import LocalStore

place, work, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def grow(top, number, shared):
    '''A tree half of whose files are those of every other one.'''
    for index in range(shared):
        path = top / str(index % 5) / f"shared-{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % index)
        path.with_name(f"own-{index}").write_bytes(b"%d of %d" % (index, number))
"""

ADD_FOR_EVER = (
    PRELUDE
    + """
store = LocalStore.open(place)
print("ready", flush=True)
number = seed * 1000
while True:
    number += 1
    top = work / str(number)
    grow(top, number, 60)
    store.checkout(store.add_path(top, move=number % 2 == 0).id, "thing")
"""
)

ADD_SOME = (
    PRELUDE
    + """
with LocalStore.open(place) as store:
    for number in random.Random(seed).sample(range(8), 8):
        top = work / f"{seed}-{number}"
        grow(top, number, 25)
        tree = store.add_path(top)
        print(number, tree.id, (store.checkout(tree.id, "thing") / "0" / "own-0").read_text(), flush=True)
"""
)

BUILD_ONCE = (
    PRELUDE
    + """
import time
with LocalStore.open(place) as store:
    with store.lock("the key"):
        done = work / "built"
        if not done.exists():
            time.sleep(0.1)
            with (work / "builds").open("a") as file:
                file.write("x")
            done.touch()
"""
)


HOLD = (
    PRELUDE
    + """
with LocalStore.open(place) as store, store.lock("key"):
    print("held", flush=True)
    input()
"""
)


def start(script: str, place: Path, work: Path, seed: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(place), str(work), str(seed)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def make_tree(top: Path, salt: str) -> Path:
    (top / "lib").mkdir(parents=True)
    (top / "same").write_bytes(b"the same every time")
    (top / "own").write_text(salt)
    (top / "lib" / "large").write_bytes(salt.encode() * 100_000)
    (top / "lib" / "link").symlink_to("../same")
    return top


@pytest.mark.parametrize("move", [False, True])
def test_a_store_whose_process_is_killed_at_any_call_verifies_clean(tmp_path: Path, move: bool) -> None:
    place = tmp_path / "store"
    with LocalStore.open(place) as store:
        kept = store.add_path(make_tree(tmp_path / "kept", "kept"))
    killed, call = True, 0
    while killed:
        source = make_tree(tmp_path / f"tree-{call}", f"{call}")

        def add(source: Path = source) -> None:
            with LocalStore.open(place) as store:
                store.checkout(store.add_path(source, move=move).id, "thing")

        killed = in_child_killed_at(call, add)
        with LocalStore.open(place) as store:
            assert store.verify().findings == ()
            assert store.has_tree(kept.id)
            assert len(os.listdir(place / "tmp")) == 3
        call += 1
    assert call > 20


def test_a_store_whose_process_is_killed_at_a_random_moment_verifies_clean(tmp_path: Path) -> None:
    chance = random.Random(20)
    place = tmp_path / "store"
    for seed in range(10):
        with start(ADD_FOR_EVER, place, tmp_path / "work", seed) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.random() * 0.15)
            process.kill()
        with LocalStore.open(place) as store:
            assert store.verify().findings == ()


def test_eight_processes_may_add_overlapping_trees_at_once(tmp_path: Path) -> None:
    place = tmp_path / "store"
    processes = [start(ADD_SOME, place, tmp_path / "work", seed) for seed in range(8)]
    answers = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert {len(lines) for lines in answers} == {8}
    assert len({line for lines in answers for line in lines}) == 8
    with LocalStore.open(place) as store:
        report = store.verify()
        assert report.findings == ()
        assert (report.trees, report.objects, report.blobs) == (8, 8, 25 * 8 + 25)
        assert len(os.listdir(place / "tmp")) == 3


def test_processes_that_want_one_key_build_it_once(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    processes = [start(BUILD_ONCE, tmp_path / "store", work, seed) for seed in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 3
    assert (work / "builds").read_text() == "x"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    waited: list[float] = []
    with start(HOLD, tmp_path / "store", tmp_path, 0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        def kill_holder(seconds: float) -> None:
            waited.append(seconds)
            process.kill()

        with LocalStore.open(tmp_path / "store") as store, store.lock("key", on_wait=kill_holder):
            assert waited
