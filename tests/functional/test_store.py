"""`forge store …` as a process: collecting, counting, repairing, with toy builds by busybox."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmojo_forge.model.digest import blake3_hex
from tests.functional.conftest import Forge

CHAIN = """
@recipe("base")
def base(*, text: str = "base"):
    return sh("base", f"printf '{text}' > /forge/out/out")

@recipe("base.top")
def top(base: Package):
    return sh("top", "cat /forge/base /forge/base > /forge/out/out", inputs={"base": base})

@recipe("base.random")
def random():
    return sh("random", "cat /proc/sys/kernel/random/uuid > /forge/out/out")
"""


def answer(forge: Forge, *arguments: str, expect: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(forge.run("store", *arguments, "--json", expect=expect).stdout)
    assert document["schema"] == 1
    return document


def damage(forge: Forge, content: bytes, other: bytes = b"") -> Path:
    """Change the blob that has this content; where it lies."""
    digest = blake3_hex(content)
    path = forge.store / "blobs" / digest[:2] / digest[2:]
    path.chmod(0o644)
    path.write_bytes(other)
    path.chmod(0o444)
    return path


def test_what_is_not_linked_goes_and_what_is_linked_is_not_built_again(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base.top")
    forge.run("realize", "-q", "--no-link", "base", "--set", "text=unlinked")
    said = answer(forge, "gc", "--older-than", "0", "--dry-run")
    done = answer(forge, "gc", "--older-than", "0")
    assert {one["name"] for one in done["trees"]} >= {"base", "busybox"}
    assert (done["bytes"], done["trees"]) == (said["bytes"], said["trees"])
    assert path.read_text() == "basebase"
    forge.run("store", "verify")
    assert forge.built("base.top") == []
    assert "base" in forge.built("base")


def test_the_closure_of_links_stays_if_that_is_asked_for(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    forge.realize("base.top")
    forge.run("realize", "-q", "--no-link", "base", "--set", "text=unlinked")
    done = answer(forge, "gc", "--older-than", "0", "--keep-closure")
    assert [one["name"] for one in done["trees"]] == ["base"]
    assert forge.built("base") == []


def test_nothing_that_was_used_lately_goes_by_default(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    forge.run("realize", "-q", "--no-link", "base")
    done = answer(forge, "gc")
    assert done["trees"] == []
    assert done["kept_unlinked_bytes"] > 0


def test_the_inputs_of_a_failed_build_stay_as_long_as_it_is_kept(forge: Forge) -> None:
    forge.recipe("bad", '@recipe("bad")\ndef f():\n    return sh("bad", "exit 1")')
    forge.run("realize", "-q", "bad", expect=1)
    done = answer(forge, "gc", "--older-than", "1h")
    assert done["trees"] == []
    assert (forge.store / "failed" / "bad").is_dir()
    assert forge.run("shell", "bad", "/forge/busybox/bin/busybox", "true").returncode == 0
    answer(forge, "gc", "--older-than", "0")
    assert not (forge.store / "failed" / "bad").exists()


def test_roots_are_listed_with_those_that_are_gone(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base")
    forge.realize("base.top")
    (forge.root / "out" / "base.top").unlink()
    rows = {Path(row["link"]).name: row for row in answer(forge, "roots")["roots"]}
    assert {name: row["dangling"] for name, row in rows.items()} == {"base": False, "base.top": True}
    assert (rows["base"]["target"], rows["base"]["bytes"]) == (str(path), 4)


def test_du_tells_what_is_shared_with_what(forge: Forge) -> None:
    forge.recipe(
        "pair",
        '@recipe("pair")\ndef f():\n    return sh("pair", "mkdir /forge/out/out; cd /forge/out/out; '
        'printf 12345 > a; printf 12345 > b; printf one > own")\n'
        '@recipe("pair.other")\ndef g():\n    return sh("other", "mkdir /forge/out/out; printf 12345 >"\n'
        '" /forge/out/out/c")',
    )
    forge.realize("pair", "pair.other")
    (one,) = answer(forge, "du", "pair")["objects"]
    assert (one["name"], one["files"], one["bytes"], one["own_bytes"], one["shared_bytes"]) == ("pair", 3, 8, 3, 5)
    assert [(other["name"], other["bytes"]) for other in one["shared_with"]] == [("other", 5)]
    whole = answer(forge, "du", "--all")
    assert {"pair", "other", "busybox"} <= {row["name"] for row in whole["objects"]}
    assert whole["bytes"] == sum(whole["bytes_by_kind"].values())
    assert forge.error("store", "du", "nonsense")["reason"] == "unknown-target"


def test_a_damaged_result_is_built_again_and_linked_again(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base.top")
    damage(forge, b"basebase", b"BASEBASE")
    assert forge.run("store", "verify", expect=1).returncode == 1
    done = answer(forge, "repair")
    assert [(one["name"], one["targets"], one["failure"]) for one in done["trees"]] == [("top", ["base.top"], None)]
    assert path.read_text() == "basebase"
    assert (forge.root / "out" / "base.top").read_text() == "basebase"
    assert [(forge.store / place).read_bytes() for place in done["set_aside"]] == [b"BASEBASE"]
    forge.run("store", "verify")


def test_a_damaged_source_is_fetched_again_by_its_pin(forge: Forge) -> None:
    forge.realize("busybox")
    digest = next(
        line.split('"')[1] for line in (forge.root / "forge.lock").read_text().splitlines() if "blake3" in line
    )
    path = forge.store / "blobs" / digest[:2] / digest[2:]
    whole = path.read_bytes()
    damage(forge, whole, whole[:-1])
    done = answer(forge, "repair")
    assert [(one["targets"], one["failure"]) for one in done["trees"]] == [(["busybox"], None)]
    assert path.read_bytes() == whole
    assert answer(forge, "repair")["findings"] == []


def test_what_comes_out_otherwise_is_told_as_lost_and_not_served(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    (path,) = forge.realize("base.random")
    content = path.read_bytes()
    damage(forge, content, b"x" * len(content))
    done = answer(forge, "repair", expect=1)
    assert [(one["targets"], one["failure"]) for one in done["trees"]] == [(["base.random"], "other-bytes")]
    forge.run("store", "verify")
    (again,) = forge.realize("base.random")
    assert again.read_bytes() != content


def test_what_nothing_here_can_make_is_told_as_lost(forge: Forge) -> None:
    forge.recipe("base", CHAIN)
    forge.run("realize", "-q", "base", "--set", "text=special")
    damage(forge, b"special", b"SPECIAL")
    done = answer(forge, "verify", "--repair", expect=1)
    assert [(one["name"], one["targets"], one["failure"]) for one in done["trees"]] == [("base", [], "unknown")]
    forge.run("store", "verify")
    assert os.listdir(forge.store / "damaged")


def test_a_result_goes_to_a_machine_that_can_build_nothing(forge: Forge, tmp_path: Path) -> None:
    forge.recipe("base", CHAIN)
    forge.realize("base.top")
    sent = answer(forge, "export", "base.top", "-o", str(tmp_path / "file"))
    assert (sent["trees"], [one["target"] for one in sent["targets"]]) == (1, ["base.top"])
    forge.environment = {"FORGE_STORE": str(tmp_path / "elsewhere")}
    got = answer(forge, "import", str(tmp_path / "file"))
    assert got["new_traces"] == sent["traces"] >= 3
    assert forge.built("base.top") == []
    assert forge.realize("base.top")[0].read_text() == "basebase"
    info = json.loads(forge.run("info", "--json", "base.top").stdout)
    assert info["built_by"].startswith("imported:")
    forge.run("store", "verify")


def test_a_closure_goes_along_if_that_is_asked_for(forge: Forge, tmp_path: Path) -> None:
    forge.recipe("base", CHAIN)
    forge.realize("base.top")
    answer(forge, "export", "base.top", "--closure", "-o", str(tmp_path / "file"))
    forge.environment = {"FORGE_STORE": str(tmp_path / "elsewhere")}
    answer(forge, "import", str(tmp_path / "file"))
    assert forge.built("base.top", "base", "busybox") == []


KIT = """
@recipe("kit")
def kit():
    return sh("kit", "echo a > /forge/out/out; echo b > /forge/out/more", outputs=("out", "more"))

@recipe("kit.user")
def user(kit: Package):
    return sh("user", "cat /forge/kit > /forge/out/out", inputs={"kit": kit})
"""


def test_what_a_collection_leaves_of_a_build_is_enough_where_it_is_all_that_is_asked_for(forge: Forge) -> None:
    forge.recipe("kit", KIT)
    forge.realize("kit")
    forge.run("store", "gc", "--older-than", "0", "--forget")
    assert ["kit", "yes"] in [line.split("\t")[:2] for line in forge.run("list").stdout.splitlines()]
    assert "kit" not in forge.built("kit.user")
    assert forge.built("kit^more") == ["kit"]
    damage(forge, b"b\n")
    assert answer(forge, "repair")["trees"]
    assert forge.built("kit^more") == []


RESTRICTED = """
from mmojo_forge.recipe import Component

@recipe("compiler")
def compiler():
    spec = sh("compiler", "wc -l < /forge/source > /forge/out/out", inputs={"source": Files("compiler.txt")})
    kept = Component("compiler.txt", licence="LicenseRef-vendor", redistributable=False, of="source")
    return spec.made_of(kept).containing("source")

@recipe("compiler.program")
def program(compiler: Package):
    return sh("program", "wc -c < /forge/compiler > /forge/out/out", inputs={"compiler": compiler}).containing()
"""


def test_what_may_not_be_passed_on_goes_along_only_if_that_is_asked_for(forge: Forge, tmp_path: Path) -> None:
    forge.recipe("compiler", RESTRICTED).with_name("compiler.txt").write_text("compiler")
    forge.realize("compiler.program")
    bundle, cache = str(tmp_path / "file"), ("--to", str(tmp_path / "cache"))
    assert forge.error("cache", "push", "compiler", *cache)["reason"] == "not-redistributable"
    pushed = json.loads(forge.run("cache", "push", "compiler.program", "--closure", *cache, "--json").stdout)
    assert pushed["skipped"] == ["compiler", "compiler.txt"]
    forge.run("cache", "push", "compiler", "--not-redistributable", *cache)
    assert forge.error("store", "export", "compiler", "-o", bundle)["reason"] == "not-redistributable"
    said = answer(forge, "export", "compiler.program", "--closure", "-o", bundle)
    assert said["skipped"] == ["compiler", "compiler.txt"]
    told = forge.run("store", "export", "compiler.program", "--closure", "-o", bundle).stderr
    assert "skipped (not redistributable): compiler" in told
    whole = answer(forge, "export", "compiler.program", "--closure", "--not-redistributable", "-o", bundle)
    assert (whole["skipped"], whole["trees"]) == ([], said["trees"] + 2)


def test_what_is_not_built_is_not_exported(forge: Forge, tmp_path: Path) -> None:
    forge.recipe("base", CHAIN)
    assert forge.error("store", "export", "base.top", "-o", str(tmp_path / "file"))["reason"] == "not-built"
    assert not (tmp_path / "file").exists()
    (tmp_path / "other").write_bytes(b"something else")
    assert forge.error("store", "import", str(tmp_path / "other"))["reason"] == "bundle-malformed"
    assert forge.error("store", "import", "nothing")["reason"] == "path-missing"
