"""`forge` as a process, in workspaces with toy recipes: what is built, what is not, what a user sees."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.functional.conftest import Forge

CHAIN = """
@recipe("base")
def base(*, text: str = "base", comment: str = ""):
    return sh("base", f"printf '{text}' > /forge/out/out # {comment}")

@recipe("base.middle")
def middle(base: Package):
    return sh("middle", "cat /forge/base /forge/base > /forge/out/out", inputs={"base": base})

@recipe("base.top")
def top():
    return sh("top", "cat /forge/middle > /forge/out/out", inputs={"middle": Package("base.middle")})
"""


def test_a_target_is_built_printed_and_linked(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base.top")
    assert path.read_text() == "basebase"
    assert path.stat().st_mode & 0o222 == 0
    link = forge.root / "out" / "base.top"
    assert link.is_symlink()
    assert link.resolve() == path


def test_the_second_time_nothing_is_done_and_the_same_is_said(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    first = forge.run("realize", "base.top").stdout
    time.sleep(0.05)
    forge.run("realize", "base.top")
    again = forge.run("realize", "base.top")
    assert again.stdout == first
    assert again.stderr == ""
    assert forge.built("base.top") == []


def test_a_changed_recipe_is_noticed_at_once(forge: Forge) -> None:
    file = forge.recipe("base", CHAIN)
    forge.realize("base.top")
    file.write_text(file.read_text().replace('"base", comment', '"other", comment'))
    (path,) = forge.realize("base.top")
    assert path.read_text() == "otherother"


def test_a_comment_in_a_toolchain_rebuilds_it_and_nothing_above(forge: Forge) -> None:
    file = forge.recipe("base", CHAIN)
    forge.realize("base.top")
    file.write_text(file.read_text().replace('comment: str = ""', 'comment: str = "a new comment"'))
    assert forge.built("base.top") == ["base"]


def test_options_are_set_on_the_command_line(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    done = forge.run("realize", "--quiet", "base", "--set", "text=mine")
    assert Path(done.stdout.strip()).read_text() == "mine"
    done = forge.run("realize", "--quiet", "base.top", "--set", "base:text=below")
    assert Path(done.stdout.strip()).read_text() == "belowbelow"


def test_a_plan_has_no_effects(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    plan = json.loads(forge.run("plan", "--json", "base.top").stdout)
    names = [step["name"] for step in plan["steps"]]
    assert names[-3:] == ["base", "middle", "top"]
    assert [step["certain"] for step in plan["steps"]][-2:] == [False, False]
    assert not (forge.root / "out").exists()


def test_a_result_that_was_deleted_is_built_again(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base")
    path.unlink()
    (again,) = forge.realize("base")
    assert again.read_text() == "base"


def test_queries_tell_what_there_is(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    forge.realize("base")
    rows = {row["target"]: row for row in json.loads(forge.run("list", "--json").stdout)["targets"]}
    assert rows["base"]["valid"]
    assert not rows["base.top"]["valid"]
    shown = json.loads(forge.run("show", "--json", "base").stdout)
    assert shown["document"]["name"] == "base"
    assert shown["options"] == {"text": "base", "comment": ""}
    assert shown["check_exemptions"] == {}
    assert forge.run("store", "path", "base").stdout.strip() == str(forge.realize("base")[0])
    assert forge.run("store", "path", "base", "--set", "text=base").stdout.strip() == str(forge.realize("base")[0])
    error = forge.error("store", "path", "base", "--set", "text=an other")
    assert error["reason"] == "not-built"
    assert "base --set 'base:text=an other'" in error["detail"]
    assert forge.error("store", "path", "--set", "text=other")["reason"] == "bad-setting"
    info = json.loads(forge.run("info", "--json", "base").stdout)
    assert (info["bytes"], info["label"], info["key"]) == (4, "reproducible", shown["key"])
    assert forge.run("store", "verify").returncode == 0


def test_a_log_is_kept(forge: Forge) -> None:
    forge.recipe("talk", '@recipe("talk")\ndef f():\n    return sh("talk", "echo spoken; echo > /forge/out/out")')
    forge.realize("talk")
    assert "spoken" in forge.run("log", "talk").stdout


def test_two_processes_build_one_thing_once(forge: Forge) -> None:
    forge.recipe("slow", '@recipe("slow")\ndef f():\n    return sh("slow", "sleep 1; echo > /forge/out/out")')
    forge.realize("busybox")
    processes = [forge.start("realize", "--json", "slow") for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert {process.returncode for process in processes} == {0}
    paths = {json.loads(out)["results"][0]["path"] for out, _ in outputs}
    assert len(paths) == 1
    waited = [err for _, err in outputs if '"waiting"' in err]
    assert len(waited) >= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_soon_and_leaves_a_store_that_verifies(forge: Forge, number: signal.Signals) -> None:
    forge.recipe(
        "slow",
        '@recipe("slow")\ndef f():\n    return sh("slow", "trap : INT TERM; echo started; sleep 600; sleep 600")',
    )
    forge.realize("busybox")
    process = forge.start("realize", "--json", "slow", start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if '"started"' in line:
            break
    time.sleep(1)
    begun = time.monotonic()
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - begun < 20
    forge.run("store", "verify")


def test_a_killed_forge_leaves_a_store_that_verifies_and_the_next_run_goes_on(forge: Forge) -> None:
    forge.recipe("slow", '@recipe("slow")\ndef f():\n    return sh("slow", "sleep 2; echo > /forge/out/out")')
    forge.realize("busybox")
    for delay in (0.3, 0.8, 1.5):
        process = forge.start("realize", "--json", "slow")
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=30)
        forge.run("store", "verify")
    forge.realize("slow")
    forge.run("store", "verify")


def test_two_stores_at_two_paths_give_the_same_tree(forge: Forge, tmp_path: Path) -> None:
    forge.recipe("base", CHAIN)
    first = json.loads(forge.run("realize", "--json", "-j", "1", "base.top").stdout)["results"][0]
    forge.environment = {"FORGE_STORE": str(tmp_path / "elsewhere")}
    second = json.loads(forge.run("realize", "--json", "-j", "4", "base.top").stdout)["results"][0]
    assert first["tree"] == second["tree"]
    assert first["path"] != second["path"]


def test_the_sandbox_is_as_the_contract_says(forge: Forge) -> None:
    script = "id -u; id -un; hostname; umask; pwd; env | sort; ls /; ls /proc | grep -c '^[0-9]'"
    forge.recipe("look", f'@recipe("look")\ndef f():\n    return sh("look", "{{ {script}; }} > /forge/out/out")')
    lines = forge.realize("look")[0].read_text().splitlines()
    assert lines[:5] == ["1000", "forge", "forge", "0022", "/build"]
    for wanted in ("HOME=/build/home", "LC_ALL=C.UTF-8", "SOURCE_DATE_EPOCH=1", "TZ=UTC"):
        assert wanted in lines
    assert not any(str(forge.root) in line for line in lines)
