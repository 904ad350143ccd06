"""Bad input gets a clear error with a machine-readable reason, and loses nothing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from mmojo_forge.executor import personality
from mmojo_forge.model.digest import BlobDigest, Sha256
from mmojo_forge.model.lockfile import Lock, Pin, parse_outputs
from tests.functional.conftest import Forge

FINE = '@recipe("fine")\ndef f():\n    return sh("fine", "echo fine > /forge/out/out")\n'


def test_an_unknown_command_is_a_usage_error(forge: Forge) -> None:
    assert "realize" in forge.run("relaize", expect=2).stderr


def test_an_unknown_target_names_what_is_close(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    error = forge.error("realize", "fien")
    assert error["reason"] == "unknown-target"
    assert "fine" in error["detail"]


def test_a_cycle_is_told_with_its_path(forge: Forge) -> None:
    forge.recipe("a", '@recipe("a")\ndef f(b: Package):\n    return sh("a", "", inputs={"b": b})')
    forge.recipe("b", '@recipe("b")\ndef f(a: Package):\n    return sh("b", "", inputs={"a": a})')
    error = forge.error("realize", "a")
    assert error["reason"] == "recipe-cycle"
    assert "a → b → a" in error["message"]


def test_an_option_that_does_not_exist_or_validate_is_refused(forge: Forge) -> None:
    forge.recipe("o", '@recipe("o")\ndef f(*, n: int = 1):\n    return sh("o", str(n))')
    assert forge.error("realize", "o", "--set", "m=1")["reason"] == "no-such-option"
    assert forge.error("realize", "o", "--set", "n=x")["reason"] == "bad-option"
    assert forge.error("realize", "o", "--set", "n")["reason"] == "bad-setting"


def test_an_option_that_nothing_heeds_is_refused_before_anything_is_built(forge: Forge) -> None:
    forge.recipe("low", '@recipe("low")\ndef f(*, n: int = 1, m: int = 1):\n    return sh("low", "exit 1")')
    inputs = 'inputs={"low": Package("low").with_options(n=2)}'
    forge.recipe("top", f'@recipe("top")\ndef f():\n    return sh("top", "", {inputs})')
    error = forge.error("realize", "top", "--set", "lwo:m=3")
    assert error["reason"] == "unused-setting"
    assert "lwo:m=3" in error["message"]
    assert "low" in error["detail"]
    error = forge.error("realize", "top", "--set", "low:m=3", "--set", "low:n=3")
    assert error["reason"] == "overruled-setting"
    assert "low:n=3" in error["message"]
    assert "low" in forge.run("plan", "top", "--set", "low:m=3").stdout


def test_a_pin_missing_from_the_lock_is_named(forge: Forge) -> None:
    forge.recipe("p", '@recipe("p")\ndef f():\n    return sh("p", "", inputs={"s": Pypi("x", "1", "x.whl")})')
    error = forge.error("realize", "p")
    assert error["reason"] == "pin-missing"
    assert "x.whl" in error["message"]
    assert forge.run("lock", "--check", expect=2).stdout.strip() == "missing: source x.whl"


def test_an_unused_pin_is_told(forge: Forge) -> None:
    lock = Lock.parse((forge.root / "forge.lock").read_text())
    pin = Pin("old.whl", "pypi:old==1/old.whl", Sha256("a" * 64), BlobDigest("b" * 64), 1)
    (forge.root / "forge.lock").write_text(Lock({"old.whl": pin}, lock.userlands).dump())
    assert forge.run("lock", "--check", expect=2).stdout.strip() == "unused: source old.whl"


@pytest.mark.parametrize(("text", "reason"), [("schema = 99\n", "lock-schema"), ("schema = [\n", "lock-malformed")])
def test_a_foreign_or_broken_lock_is_refused(forge: Forge, text: str, reason: str) -> None:
    forge.recipe("fine", FINE)
    (forge.root / "forge.lock").write_text(text)
    assert forge.error("realize", "fine")["reason"] == reason
    assert (forge.root / "forge.lock").read_text() == text


def test_a_reproducible_target_that_comes_out_otherwise_is_an_error(forge: Forge) -> None:
    """forge.outputs expects what was built first; then the same derivation gives other bytes."""
    forge.recipe(
        "luck", '@recipe("luck")\ndef f():\n    return sh("luck", "cat /proc/sys/kernel/random/uuid > /forge/out/out")'
    )
    forge.realize("luck")
    forge.run("lock", "--outputs")
    forge.realize("luck")
    forge.environment = {"FORGE_STORE": str(forge.root / "another store")}
    error = forge.error("realize", "luck", expect=1)
    assert error["reason"] == "unexpected-output"
    outputs = parse_outputs((forge.root / "forge.outputs").read_text())
    assert outputs["luck"].tree in error["message"]


def test_an_unexpected_output_names_the_first_file_that_differs_where_both_are_here(forge: Forge) -> None:
    build = "mkdir /forge/out/out; echo 1 > /forge/out/out/a; cat /proc/sys/kernel/random/uuid > /forge/out/out/b"
    forge.recipe("luck", f'@recipe("luck")\ndef f():\n    return sh("luck", "{build}")')
    forge.realize("luck")
    forge.run("lock", "--outputs")
    with sqlite3.connect(forge.store / "db.sqlite") as database:
        database.execute("DELETE FROM resolved")
        database.execute("DELETE FROM traces")
    database.close()
    error = forge.error("realize", "luck", expect=1)
    assert error["reason"] == "unexpected-output"
    assert "first file that differs is b (of 1)" in error["detail"]


def test_no_workspace_is_a_clear_error(forge: Forge) -> None:
    (forge.root / "forge.lock").unlink()
    assert forge.error("realize", "fine")["reason"] == "no-workspace"


def test_a_failing_build_shows_its_last_lines_and_the_way_in(forge: Forge) -> None:
    forge.recipe("bad", '@recipe("bad")\ndef f():\n    return sh("bad", "echo left > note; echo broken; exit 3")')
    error = forge.error("realize", "bad", expect=1)
    assert error["reason"] == "build-failed"
    assert "broken" in error["message"]
    assert "forge shell bad" in error["message"]
    assert "broken" in forge.run("log", "bad").stdout
    busybox = "/forge/busybox/bin/busybox"
    assert forge.run("shell", "bad", "--", busybox, "cat", "/build/note").stdout == "left\n"


def test_the_shell_has_the_memory_layout_of_the_build(forge: Forge) -> None:
    """So that what a compiler makes of it there is what it made in the build."""
    with personality.taken_on(personality.USUAL) as why:
        if why:
            pytest.skip(f"not allowed here: {why}")
    forge.recipe("bad", '@recipe("bad")\ndef f():\n    return sh("bad", "cat /proc/self/personality > flags; exit 1")')
    forge.error("realize", "bad", expect=1)
    look = "cat /build/flags /proc/self/personality"
    said = forge.run("shell", "bad", "--", "/forge/busybox/bin/busybox", "sh", "-c", look).stdout
    assert said.splitlines() == [f"{personality.USUAL:08x}"] * 2


LEAVES = {
    "nothing": ("true", "output-missing"),
    "an absolute symlink": ("mkdir /forge/out/out; ln -s /etc/passwd /forge/out/out/x", "symlink-absolute"),
    "a symlink that leads out": ("mkdir /forge/out/out; ln -s ../../x /forge/out/out/x", "symlink-escapes"),
    "a fifo": ("mkdir /forge/out/out; mkfifo /forge/out/out/x", "output-fifo"),
    "a name that is not UTF-8": ("mkdir /forge/out/out; touch /forge/out/out/$(printf '\\\\377')", "tree-bad-name"),
}


@pytest.mark.parametrize("what", LEAVES)
def test_an_output_that_cannot_be_stored_is_refused(forge: Forge, what: str) -> None:
    script, reason = LEAVES[what]
    forge.recipe("bad", f'@recipe("bad")\ndef f():\n    return sh("bad", """{script}""")')
    assert forge.error("realize", "bad", expect=1)["reason"] == reason
    forge.run("store", "verify")


def test_a_build_cannot_set_set_id_bits(forge: Forge) -> None:
    """The system call filter refuses, so the builder itself fails."""
    forge.recipe("bad", '@recipe("bad")\ndef f():\n    return sh("bad", "touch x; chmod 4755 x")')
    assert forge.error("realize", "bad", expect=1)["reason"] == "build-failed"


def test_a_corrupt_blob_is_found(forge: Forge) -> None:
    forge.recipe("fine", FINE)
    (path,) = forge.realize("fine")
    os.chmod(path, 0o644)
    path.write_text("evil\n")
    os.chmod(path, 0o444)
    done = forge.run("store", "verify", expect=1)
    assert "blob-corrupt" in done.stdout


def test_a_store_of_a_newer_forge_is_refused(forge: Forge) -> None:
    import sqlite3

    forge.recipe("fine", FINE)
    forge.realize("fine")
    with sqlite3.connect(forge.store / "db.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    assert forge.error("realize", "fine", expect=3)["reason"] == "store-schema"


def test_an_impure_recipe_is_refused_with_its_line(forge: Forge) -> None:
    file = forge.recipe("bad", '@recipe("bad")\ndef f():\n    return sh("bad", open("/etc/hostname").read())')
    error = forge.error("realize", "bad")
    assert error["reason"] == "recipe-impure"
    assert f"{file}:" in error["message"]


def test_a_truncated_or_altered_ape_is_refused(forge: Forge, tmp_path: Path) -> None:
    file = tmp_path / "short"
    file.write_bytes(b"MZqFpD='\n" + b"x" * 4096)
    assert forge.error("ape", "inspect", str(file))["reason"] == "ape-truncated"
    file.write_bytes(b"no ape at all" * 10)
    assert forge.error("ape", "inspect", str(file))["reason"] == "ape-not-an-ape"
