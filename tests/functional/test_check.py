"""`forge check` as a process: what is built again comes out the same, or it is told why it does not."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.model.derivation import INHERENT, Aspect
from tests.functional.conftest import Forge

Report = dict[str, Any]
REPRODUCIBLE = {"reproducible": True, "facts": {}}
FINE = '@recipe("fine")\ndef f():\n    return sh("fine", "echo fine > /forge/out/out")\n'


def make(forge: Forge, script: str, **more: str) -> None:
    """Write a recipe `it` whose build runs the script."""
    arguments = "".join(f", {name}={value}" for name, value in more.items())
    forge.recipe("it", f'@recipe("it")\ndef f():\n    return sh("it", {script!r}{arguments})\n')


def check(forge: Forge, *arguments: str, expect: int = 0) -> Report:
    report: Report = json.loads(forge.run("check", "--quiet", "--json", *arguments, expect=expect).stdout)
    assert report["schema"] == 1
    assert report["identical"] == (expect == 0)
    return report


def varied(report: Report) -> set[str]:
    return {one["aspect"] for one in report["variations"] if not one["refused"]}


def need(report: Report, aspect: Aspect) -> None:
    """Skip the test if the report says that the machine cannot vary this."""
    (one,) = [one for one in report["variations"] if one["aspect"] == aspect.value]
    if one["refused"]:
        pytest.skip(f"{aspect.value} is not varied here: {one['refused']}")


def bisect(forge: Forge, aspect: Aspect) -> None:
    """The target `it` differs, and depends on this aspect and no other."""
    forge.realize("it")
    report = json.loads(forge.start("check", "--quiet", "--json", "--bisect", "it").communicate(timeout=300)[0])
    need(report, aspect)
    (node,) = report["nodes"]
    assert not report["identical"]
    assert not node["identical"]
    assert not node["unstable"]
    assert node["depends_on"] == [aspect.value]
    assert node["failure"] is None


def rows(forge: Forge) -> dict[str, list[tuple[object, ...]]]:
    """What the workspace's store knows."""
    with sqlite3.connect(forge.store / "db.sqlite") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}
    found.pop("epochs")
    return found


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def scratch_of(forge: Forge) -> Path:
    folder = forge.root / "scratch"
    folder.mkdir()
    return folder


def test_a_clean_target_is_identical_and_says_what_was_varied(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    report = check(forge, "fine")
    names = [one["aspect"] for one in report["variations"]]
    assert names == [aspect.value for aspect in Aspect]
    assert len(varied(report)) >= 12, report["variations"]
    assert all(one["usual"] and one["other"] and one["usual"] != one["other"] for one in report["variations"])
    (node,) = report["nodes"]
    assert (node["name"], node["identical"], node["unstable"]) == ("fine", True, False)
    assert (node["failure"], node["depends_on"], node["label"]) == (None, [], REPRODUCIBLE)
    (output,) = node["outputs"]
    assert (output["name"], output["differences"]) == ("out", [])
    info = json.loads(forge.run("info", "--json", "fine").stdout)
    assert output["expected"] == output["got"] == info["tree"]
    assert node["key"] == info["key"]


def test_what_cannot_be_varied_is_told_with_the_reason(forge: Forge) -> None:
    """There is no target that has libfaketime in this workspace, and one job is what one job is."""
    forge.recipe("fine", FINE)
    report = check(forge, "-j", "1", "fine")
    refused = {one["aspect"] for one in report["variations"] if one["refused"]}
    assert {Aspect.CLOCK.value, Aspect.PARALLELISM.value} <= refused


def test_the_report_for_people_names_variations_and_verdicts(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    shown = forge.run("check", "fine").stdout
    assert "identical" in shown
    assert all(aspect.value in shown for aspect in Aspect)


@pytest.mark.bisect
def test_a_build_that_reads_the_clock_differs(forge: Forge) -> None:
    make(forge, "date +%s > /forge/out/out")
    forge.realize("it")
    time.sleep(1.1)
    (node,) = check(forge, "it", expect=1)["nodes"]
    (output,) = node["outputs"]
    (difference,) = output["differences"]
    assert (difference["path"], difference["kind"]) == ("", "content")
    assert output["expected"] != output["got"]
    assert Path(node["kept"], "out").is_file()
    assert Path(node["kept"]) == forge.store / f"checks/it-{node['id'][:12]}"
    (node,) = check(forge, "--bisect", "it", expect=1)["nodes"]
    assert node["unstable"]
    assert node["depends_on"] == []


@pytest.mark.bisect
def test_a_build_that_reads_chance_is_unstable(forge: Forge) -> None:
    make(forge, "cat /proc/sys/kernel/random/uuid > /forge/out/out")
    (node,) = check(forge, "--bisect", "it", expect=1)["nodes"]
    assert node["unstable"]


LEAKS = {
    "the date of today": ("date > /forge/out/out", "date of today"),
    "the kernel's version": ("uname -r > /forge/out/out", "kernel version"),
    "the date in a symlink": ("mkdir /forge/out/out; ln -s $(date +%F) /forge/out/out/x", "date of today"),
    "the date in a file's name": ("mkdir /forge/out/out; > /forge/out/out/built-$(date +%F).txt", "date of today"),
    "the date in a folder's name": ("mkdir -p /forge/out/out/$(date +%F)/x", "date of today"),
    "the kernel's version in a name": ("mkdir -p /forge/out/out/lib/modules/$(uname -r)", "kernel version"),
}


@pytest.mark.parametrize("what", LEAKS)
def test_an_output_that_tells_of_the_machine_is_refused_unless_the_recipe_says_why(forge: Forge, what: str) -> None:
    script, kind = LEAKS[what]
    make(forge, script)
    error = forge.error("realize", "it", expect=1)
    assert error["reason"] == "output-leaks"
    assert kind in error["message"]
    make(forge, script, allowed_leaks=repr({"another kind": "a reason"}))
    assert forge.error("realize", "it", expect=1)["reason"] == "output-leaks"
    make(forge, script, allowed_leaks=repr({kind: "it is a test"}))
    forge.realize("it")


def test_what_only_the_rebuild_leaks_is_a_failure(forge: Forge) -> None:
    """The date is told only where there is one job."""
    script = "if [ $FORGE_JOBS = 1 ]; then date; else echo many; fi > /forge/out/out"
    make(forge, script, parallel="True")
    forge.run("realize", "--quiet", "-j", "2", "it")
    report = json.loads(
        forge.start("check", "--quiet", "--json", "-j", "2", "it").communicate(timeout=300)[0],
    )
    need(report, Aspect.PARALLELISM)
    (node,) = report["nodes"]
    assert (node["failure"], node["identical"], node["outputs"]) == ("output-leaks", False, [])


def test_a_build_that_counts_cpus_depends_on_them(forge: Forge) -> None:
    make(forge, "nproc > /forge/out/out")
    bisect(forge, Aspect.AFFINITY)


def test_a_build_that_reads_the_name_of_the_cpu_depends_on_it(forge: Forge) -> None:
    make(
        forge,
        "grep -m 1 'model name' /proc/cpuinfo > /forge/out/out",
        allowed_leaks=repr({"CPU model": "it is a test"}),
    )
    bisect(forge, Aspect.CPU_MODEL)


def test_a_build_that_writes_how_many_jobs_it_had_depends_on_that(forge: Forge) -> None:
    make(forge, "echo $FORGE_JOBS > /forge/out/out", parallel="True")
    bisect(forge, Aspect.PARALLELISM)


@pytest.mark.bisect
def test_a_build_that_lists_files_as_they_come_depends_on_their_order(forge: Forge) -> None:
    make(forge, "cd /forge/files; find . -type f > /forge/out/out", inputs='{"files": Files("files")}')
    folder = forge.root / "recipes/it/files"
    folder.mkdir()
    for number in range(60):
        (folder / f"file{number}").write_text(f"{number}\n")
    forge.realize("it")
    report = json.loads(forge.start("check", "--quiet", "--json", "--bisect", "it").communicate(timeout=300)[0])
    need(report, Aspect.FILE_SYSTEM)
    (node,) = report["nodes"]
    assert (node["identical"], node["unstable"], node["depends_on"]) == (False, False, [Aspect.ORDER.value])
    make(forge, "cd /forge/files; find . -type f | sort > /forge/out/out", inputs='{"files": Files("files")}')
    check(forge, "it")


@pytest.mark.bisect
def test_a_build_that_depends_on_its_place_is_told_what_comes_with_it(forge: Forge) -> None:
    """/proc/self/mountinfo has the paths of bind mounts within their file systems, and the devices' numbers."""
    make(forge, "stat -f -c %T /build > /forge/out/out")
    forge.realize("it")
    report = json.loads(forge.start("check", "--quiet", "--json", "--bisect", "it").communicate(timeout=300)[0])
    need(report, Aspect.FILE_SYSTEM)
    (node,) = report["nodes"]
    assert not node["unstable"]
    assert node["depends_on"] == sorted(aspect.value for aspect in INHERENT)


SURROUNDINGS = "id -u; id -un; hostname; umask; env | sort; pwd; date +%Z; cat /proc/self/uid_map | wc -l"


def test_what_is_around_forge_does_not_reach_a_build(forge: Forge) -> None:
    make(forge, f"{{ {SURROUNDINGS}; }} > /forge/out/out")
    report = check(forge, "it")
    around = {Aspect.UMASK, Aspect.ENVIRONMENT, Aspect.LOCALE, Aspect.TIME_ZONE}
    assert {aspect.value for aspect in around} <= varied(report)


@pytest.mark.bisect
def test_a_build_that_reads_its_personality_depends_on_it(forge: Forge) -> None:
    """Sandboxes have the same each time, rebuilds another: where memory lies must not matter either."""
    make(forge, "cat /proc/self/personality > /forge/out/out")
    report = json.loads(forge.start("check", "--quiet", "--json", "--bisect", "it").communicate(timeout=300)[0])
    need(report, Aspect.PERSONALITY)
    need(report, Aspect.ASLR)
    assert report["nodes"][0]["depends_on"] == [Aspect.ASLR.value, Aspect.PERSONALITY.value]


@pytest.mark.parametrize(
    "text", ["import platform", "import os", "from platform import machine", "from os import cpu_count"]
)
def test_a_recipe_cannot_ask_python_about_the_cpu(forge: Forge, text: str) -> None:
    file = forge.recipe("it", f'{text}\n\n@recipe("it")\ndef f():\n    return sh("it", "true")\n')
    error = forge.error("check", "it")
    assert error["reason"] == "recipe-impure"
    assert f"{file}:" in error["message"]


HOST = """
@recipe("native")
def native(host, *, name: str = "native"):
    return sh(name, "echo '" + host.fact("cpu.threads") + "' > /forge/out/out")

@recipe("native.user")
def user(native: Package):
    return sh("user", "cat /forge/native > /forge/out/out", inputs={"native": native})

@recipe("native.alias")
def alias(host):
    return Package("plain").with_options(text=host.fact("machine"))

@recipe("native.above")
def above():
    return sh("above", "cat /forge/alias > /forge/out/out", inputs={"alias": Package("native.alias")})
"""
PLAIN = '@recipe("plain")\ndef f(*, text: str = "plain"):\n    return sh("plain", f"echo {text} > /forge/out/out")\n'


def label_of(forge: Forge, target: str) -> object:
    return json.loads(forge.run("show", "--json", target).stdout)["label"]


def test_what_asks_for_host_facts_is_labelled_with_them_and_so_is_all_above(forge: Forge) -> None:
    forge.recipe("native", HOST)
    forge.recipe("plain", PLAIN)
    threads = {"reproducible": False, "facts": {"cpu.threads": str(len(os.sched_getaffinity(0)))}}
    machine = {"reproducible": False, "facts": {"machine": os.uname().machine}}
    assert [label_of(forge, target) for target in ("native", "native.user")] == [threads] * 2
    assert [label_of(forge, target) for target in ("native.alias", "native.above")] == [machine] * 2
    assert label_of(forge, "plain") == REPRODUCIBLE
    listed = {row["target"]: row["label"] for row in json.loads(forge.run("list", "--json").stdout)["targets"]}
    assert listed == {
        **dict.fromkeys(("native", "native.user", "native.alias", "native.above"), "host-specific"),
        **dict.fromkeys(("plain", "busybox"), "reproducible"),
    }


def test_a_host_specific_target_can_be_checked(forge: Forge) -> None:
    forge.recipe("native", HOST)
    forge.recipe("plain", PLAIN)
    nodes = check(forge, "native.user", "native.alias")["nodes"]
    assert [(node["name"], node["identical"]) for node in nodes] == [("user", True), ("plain", True)]
    assert not any(node["label"]["reproducible"] for node in nodes)


CHAIN = """
@recipe("base")
def base():
    return sh("base", "echo base > /forge/out/out")

@recipe("base.middle")
def middle(base: Package):
    return sh("middle", "cat /proc/sys/kernel/random/uuid > /forge/out/out", inputs={"base": base})

@recipe("base.top")
def top():
    return sh("top", "echo top > /forge/out/out", inputs={"middle": Package("base.middle")})
"""


def test_the_closure_is_checked_node_by_node(forge: Forge) -> None:
    """A node is built from what its inputs are, not from what they came to in the check."""
    forge.recipe("base", CHAIN)
    assert [node["name"] for node in check(forge, "base.top")["nodes"]] == ["top"]
    nodes = check(forge, "--closure", "base.top", expect=1)["nodes"]
    assert {node["name"]: node["identical"] for node in nodes} == {
        "busybox": True,
        "base": True,
        "middle": False,
        "top": True,
    }


def test_inputs_that_are_gone_are_made_again(forge: Forge) -> None:
    forge.recipe(
        "base",
        '@recipe("base")\ndef f():\n    return sh("base", "echo base > /forge/out/out")\n\n'
        '@recipe("base.top")\ndef top(base: Package):\n'
        '    return sh("top", "cat /forge/base > /forge/out/out", inputs={"base": base})\n',
    )
    forge.realize("base.top")
    tree = json.loads(forge.run("info", "--json", "base").stdout)["tree"]
    with sqlite3.connect(forge.store / "db.sqlite") as database:
        database.execute("DELETE FROM trees WHERE id = ?", (tree,))
    (node,) = check(forge, "base.top")["nodes"]
    assert node["failure"] is None


def test_a_rebuild_that_fails_is_told_as_failed(forge: Forge) -> None:
    make(forge, "echo said by the build; [ $FORGE_JOBS -gt 1 ]; echo > /forge/out/out", parallel="True")
    forge.run("realize", "--quiet", "-j", "2", "it")
    report = json.loads(forge.start("check", "--quiet", "--json", "-j", "2", "it").communicate(timeout=300)[0])
    need(report, Aspect.PARALLELISM)
    (node,) = report["nodes"]
    assert (node["failure"], node["identical"], node["outputs"]) == ("build-failed", False, [])
    assert "said by the build" in forge.run("check", "--quiet", "-j", "2", "it", expect=1).stdout


def test_what_came_out_differently_is_kept_until_the_next_check(forge: Forge) -> None:
    """Folders of the store are read-only, and so are copies of them."""
    make(forge, "mkdir -p /forge/out/out/sub; cat /proc/sys/kernel/random/uuid > /forge/out/out/sub/file")
    seen = set()
    for _ in range(2):
        (node,) = check(forge, "it", expect=1)["nodes"]
        (output,) = node["outputs"]
        assert [(one["path"], one["kind"]) for one in output["differences"]] == [("sub/file", "content")]
        seen.add(Path(node["kept"], "out/sub/file").read_text())
        assert [path.name for path in (forge.store / "checks").iterdir()] == [Path(node["kept"]).name]
    assert len(seen) == 2


TWINS = """
@recipe("one")
def one():
    return sh("twin", "echo one; mkdir /forge/out/out; cat /proc/sys/kernel/random/uuid > /forge/out/out/one")

@recipe("one.other")
def other():
    return sh("twin", "echo other; mkdir /forge/out/out; cat /proc/sys/kernel/random/uuid > /forge/out/out/other")
"""


def test_nodes_of_one_name_are_kept_apart(forge: Forge) -> None:
    forge.recipe("one", TWINS)
    nodes = check(forge, "one", "one.other", expect=1)["nodes"]
    assert [node["name"] for node in nodes] == ["twin", "twin"]
    assert [[path.name for path in Path(node["kept"], "out").iterdir()] for node in nodes] == [["one"], ["other"]]


def test_what_a_killed_check_left_is_replaced(forge: Forge) -> None:
    make(forge, "mkdir /forge/out/out; cat /proc/sys/kernel/random/uuid > /forge/out/out/new")
    (node,) = check(forge, "it", expect=1)["nodes"]
    stale = Path(node["kept"])
    (stale / "out").chmod(0o755)
    (stale / "out/stale").write_text("")
    (stale / "dev").mkdir(mode=0o500)
    check(forge, "it", expect=1)
    assert files(stale) == {"out", "out/new"}
    assert list((forge.store / "tmp").glob("*/scratch-*")) == []


def test_what_fails_where_it_is_rebuilt_leaves_its_log(forge: Forge) -> None:
    make(forge, "echo said by the build; [ $FORGE_JOBS -gt 1 ]; echo > /forge/out/out", parallel="True")
    forge.run("realize", "--quiet", "-j", "2", "it")
    report = json.loads(forge.start("check", "--quiet", "--json", "-j", "2", "it").communicate(timeout=300)[0])
    need(report, Aspect.PARALLELISM)
    (node,) = report["nodes"]
    assert Path(node["kept"], "build.log").read_text() == "said by the build\n"
    assert files(Path(node["kept"])) == {"build.log"}


def isolate_failure(forge: Forge, *aspects: Aspect, together: bool = False) -> None:
    """The target `it` is built, cannot be rebuilt, and that comes from these aspects."""
    forge.realize("it")
    report = json.loads(forge.start("check", "--quiet", "--json", "--bisect", "it").communicate(timeout=300)[0])
    for aspect in aspects:
        need(report, aspect)
    (node,) = report["nodes"]
    assert (node["failure"], node["identical"], node["bisected"]) == ("build-failed", False, True)
    assert node["depends_on"] == sorted(aspect.value for aspect in aspects)
    assert (node["together"], node["unstable"]) == (together, False)


USUAL_CPU = "[ -z \"$(grep 'no such CPU' /proc/cpuinfo)\" ]"


def test_a_build_that_fails_on_one_cpu_is_told_to_depend_on_that(forge: Forge) -> None:
    make(forge, "[ $(nproc) -gt 1 ]; echo > /forge/out/out")
    isolate_failure(forge, Aspect.AFFINITY)


def test_a_build_that_fails_under_either_of_two_variations_depends_on_each(forge: Forge) -> None:
    make(forge, f"[ $(nproc) -gt 1 ]; {USUAL_CPU}; echo > /forge/out/out")
    isolate_failure(forge, Aspect.AFFINITY, Aspect.CPU_MODEL)


def test_a_build_that_fails_only_under_two_variations_together_depends_on_both(forge: Forge) -> None:
    make(forge, f"[ $(nproc) -gt 1 ] || {USUAL_CPU}; echo > /forge/out/out")
    isolate_failure(forge, Aspect.AFFINITY, Aspect.CPU_MODEL, together=True)


def test_what_differs_under_one_variation_and_fails_under_another_depends_on_both(forge: Forge) -> None:
    """All at once it fails; which of them lets it fail is what is asked, and the other is no cause of that."""
    make(forge, f"nproc > /forge/out/out; {USUAL_CPU}")
    isolate_failure(forge, Aspect.CPU_MODEL)


@pytest.mark.bisect
def test_a_build_that_fails_from_some_time_on_depends_on_what_every_rebuild_has(forge: Forge) -> None:
    script = "cd /forge/clock; [ $(date +%s) -lt $(cat clock) ]; echo > /forge/out/out"
    make(forge, script, inputs='{"clock": Files("clock")}')
    folder = forge.root / "recipes/it/clock"
    folder.mkdir()
    (folder / "clock").write_text(f"{int(time.time()) + 10}\n")
    forge.realize("it")
    while time.time() < int((folder / "clock").read_text()):
        time.sleep(0.1)
    (node,) = check(forge, "--bisect", "it", expect=1)["nodes"]
    assert (node["failure"], node["unstable"], node["together"]) == ("build-failed", False, False)
    assert node["depends_on"] == sorted({aspect.value for aspect in INHERENT} & set(node["varied"]))


def test_what_cannot_be_varied_for_a_node_is_not_claimed(forge: Forge) -> None:
    make(forge, "echo > /forge/out/out")
    report = check(forge, "--closure", "it")
    nodes = {node["name"]: set(node["varied"]) for node in report["nodes"]}
    assert nodes == {
        "busybox": varied(report) & {aspect.value for aspect in INHERENT},
        "it": varied(report) - {Aspect.PARALLELISM.value},
    }


def test_what_a_recipe_leaves_as_it_is_is_told_with_the_reason_wherever_a_verdict_is(forge: Forge) -> None:
    script = "! grep -q 'no such CPU' /proc/cpuinfo; echo fine > /forge/out/out"
    said = '.checked_without(cpu_model="it asks")'
    forge.recipe("it", f'@recipe("it")\ndef f():\n    return sh("it", {script!r}){said}\n')
    forge.recipe("fine", FINE)
    report = check(forge, "it", "fine")
    need(report, Aspect.CPU_MODEL)
    nodes = {node["name"]: node for node in report["nodes"]}
    assert (nodes["it"]["check_exemptions"], nodes["fine"]["check_exemptions"]) == ({"cpu-model": "it asks"}, {})
    assert set(nodes["fine"]["varied"]) - set(nodes["it"]["varied"]) == {"cpu-model"}
    checks = {}
    for line in Path(report["receipt"]).read_text().splitlines():
        predicate = json.loads(base64.b64decode(json.loads(line)["payload"]))["predicate"]
        (told,) = predicate["runDetails"]["byproducts"]
        checks[predicate["buildDefinition"]["externalParameters"]["name"]] = told["annotations"]
    assert checks["it"]["check_exemptions"] == {"cpu-model": "it asks"}
    assert "cpu-model" not in checks["it"]["varied"]
    assert "check_exemptions" not in checks["fine"]
    assert json.loads(forge.run("show", "--json", "it").stdout)["check_exemptions"] == {"cpu-model": "it asks"}
    assert "cpu-model: it asks" in forge.run("show", "it").stdout
    shown = forge.run("check", "it", "fine").stdout
    assert "not varied for it: it asks" in shown
    assert f"({len(varied(report)) - 1} of {len(Aspect)})" in shown


def test_a_file_name_that_tells_the_date_is_refused_in_a_rebuild_too(forge: Forge) -> None:
    make(forge, "mkdir /forge/out/out; [ $FORGE_JOBS -gt 1 ] || > /forge/out/out/built-$(date +%F)", parallel="True")
    forge.run("realize", "--quiet", "-j", "2", "it")
    report = json.loads(forge.start("check", "--quiet", "--json", "-j", "2", "it").communicate(timeout=300)[0])
    need(report, Aspect.PARALLELISM)
    assert report["nodes"][0]["failure"] == "output-leaks"


def test_progress_is_told_as_events_where_the_report_is_json(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    done = forge.run("check", "--json", "fine")
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[-3:] == ["planned", "started", "finished"]
    assert json.loads(done.stdout)["identical"]
    assert forge.run("check", "--json", "--quiet", "fine").stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--against", "receipt", "--bisect"),
        ("--against", "receipt", "--closure"),
        ("--against", "receipt", "--scratch", "."),
        ("--diff", "--json"),
        ("--scratch", "nowhere"),
        (),
    ],
)
def test_options_that_make_no_sense_are_refused(forge: Forge, arguments: tuple[str, ...]) -> None:
    forge.recipe("fine", FINE)
    forge.run("check", *arguments, *(["fine"] if arguments else []), expect=2)
    assert not (forge.root / "out").exists()


def test_a_folder_that_nothing_can_be_built_in_is_the_machines_fault(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    assert forge.error("check", "--scratch", "/proc", "fine", expect=3)["reason"] == "scratch-unusable"


def test_a_missing_diffoscope_is_told_before_anything_is_built(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    programs = forge.root / "programs"
    programs.mkdir()
    for name in ("env", "bwrap"):
        program = shutil.which(name)
        assert program
        (programs / name).symlink_to(program)
    forge.environment["PATH"] = str(programs)
    done = forge.run("check", "--diff", "fine", expect=3)
    assert "diffoscope-minimal" in done.stderr
    assert not (forge.root / "out").exists()


def test_a_receipt_that_cannot_be_written_does_not_take_the_report_with_it(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    with forge.start("check", "--quiet", "--json", "--receipt", "/proc/none/receipt", "fine") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode not in (0, 1)
    assert json.loads(err)["error"]["reason"] == "receipt-unwritable"
    report = json.loads(out)
    assert (report["identical"], report["receipt"]) == (True, None)


def test_the_workspace_has_nothing_of_the_rebuild_afterwards(forge: Forge) -> None:
    make(forge, "cat /proc/sys/kernel/random/uuid > /forge/out/out")
    forge.realize("it")
    before, scratch = rows(forge), scratch_of(forge)
    names = {name: files(forge.store / name) for name in ("blobs", "trees", "objects", "failed", "roots")}
    check(forge, "--scratch", str(scratch), "it", expect=1)
    assert rows(forge) == before
    assert {name: files(forge.store / name) for name in names} == names
    assert list(scratch.iterdir()) == []
    forge.run("store", "verify")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_check_soon_and_leaves_nothing(forge: Forge, number: signal.Signals) -> None:
    """The first build is short; the rebuild, which has one job, would go on for ten minutes."""
    script = "echo started-$FORGE_JOBS; [ $FORGE_JOBS -gt 1 ] || { trap : INT TERM; sleep 600; sleep 600; }; "
    make(forge, script + "echo > /forge/out/out", parallel="True")
    forge.run("realize", "--quiet", "-j", "2", "it")
    before, scratch = rows(forge), scratch_of(forge)
    process = forge.start("check", "--quiet", "-j", "2", "--scratch", str(scratch), "it", start_new_session=True)
    wait_for_sleepers(process.pid)
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert list(scratch.iterdir()) == []
    assert sleepers(process.pid) == []
    assert rows(forge) == before
    forge.run("store", "verify")


def sleepers(session: int) -> list[int]:
    """The processes called `sleep 600` that descend from a process, which may be gone: they carry its place's paths."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"sleep\x00600" in (folder / "cmdline").read_bytes() and descends(int(folder.name), session):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def wait_for_sleepers(session: int) -> None:
    end = time.monotonic() + 60
    while not sleepers(session):
        assert time.monotonic() < end, "the rebuild has not begun"
        time.sleep(0.1)
