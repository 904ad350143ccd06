"""A mistake in a configuration file is one line and exit code 2, whichever command meets it first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.conftest import REPOSITORY, Forge

TOY = '@recipe("toy")\ndef f():\n    return sh("toy", "echo toy > /forge/out/out")\n'
COMMANDS = (
    ("realize", "toy"),
    ("realize", "--quiet", "toy"),
    ("plan", "toy"),
    ("list",),
    ("show", "toy"),
    ("info", "toy"),
    ("sbom", "toy"),
    ("log", "toy"),
    ("lock", "--check"),
    ("doctor",),
    ("check", "toy"),
    ("store", "path"),
    ("store", "du"),
    ("store", "roots"),
    ("cache", "status"),
    ("cache", "push", "toy", "--to", "x/"),
    ("cache", "key", "show"),
)
MISTAKES = (
    ("config.toml", "[trust\n"),
    ("config.toml", "[trsut]\n"),
    ("config.toml", "store = 7\n"),
    ("config.toml", '[cache.team]\nurl = "$HOME/c"\n'),
    ("forge.toml", '[caches.team]\nurl = "c"\n'),
    ("forge.toml", '[cache.team]\nurl = "$HOME/c"\n'),
    ("forge.toml", "[cache.team]\n"),
    ("forge.keys", '[keys.bob]\npublic = "x"\n'),
    ("keys.toml", "[key\n"),
)


def path_of(forge: Forge, name: str) -> Path:
    folder = forge.root if name.startswith("forge") else forge.root / "home" / ".config" / "mmojo-forge"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def refused(forge: Forge, *command: str) -> str:
    """The one line that the command says, and nothing else than advice below it."""
    done = forge.run(*command, expect=2)
    first, *advice = done.stderr.splitlines()
    assert first.startswith("error: read ")
    assert all(line.startswith("  ") for line in advice), done.stderr
    assert not done.stdout
    return first


@pytest.mark.parametrize(("name", "text"), MISTAKES)
def test_a_mistake_is_told_also_where_all_is_built_already(forge: Forge, name: str, text: str) -> None:
    forge.recipe("toy", TOY)
    forge.realize("toy")
    forge.run("realize", "toy")
    path = path_of(forge, name)
    path.write_text(text)
    line = refused(forge, "realize", "toy")
    assert str(path) in line
    # The entry of the no-op path is as it was, and still no excuse.
    assert refused(forge, "realize", "toy") == line
    assert forge.error("realize", "toy")["message"] == line.removeprefix("error: ")
    path.unlink()
    assert forge.run("realize", "toy").stdout
    assert not (forge.root / "$HOME").exists()


@pytest.mark.parametrize("name", ["config.toml", "forge.toml", "forge.keys", "keys.toml"])
def test_every_command_says_the_same(forge: Forge, name: str) -> None:
    forge.recipe("toy", TOY)
    forge.realize("toy")
    path_of(forge, name).write_text("[trsut]\nagree = 2\n")
    assert len({refused(forge, *command) for command in COMMANDS}) == 1


def test_files_that_cannot_be_read_are_told(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    path = path_of(forge, "config.toml")
    path.write_bytes(b"# \xff\n")
    assert f"{path}:1:3: " in refused(forge, "list")
    path.unlink()
    path.mkdir()
    assert forge.error("list")["reason"] == "settings-unreadable"
    path.rmdir()
    os.mkfifo(path)
    assert forge.error("realize", "toy")["reason"] == "settings-unreadable"


def test_a_store_elsewhere_is_found_by_the_no_op_path_too(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    path_of(forge, "config.toml").write_text('store = "~/other"\n')
    for _ in range(3):
        (found,) = forge.realize("toy")
        assert found.is_relative_to(forge.root / "home" / "other")
        assert forge.run("realize", "toy").stdout.strip() == str(found)


def test_what_changes_in_the_users_files_is_news_to_the_no_op_path(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    forge.realize("toy")
    first = forge.run("realize", "toy").stdout
    path_of(forge, "config.toml").write_text('store = "elsewhere"\n')
    second = forge.run("realize", "toy").stdout
    assert second != first
    path_of(forge, "config.toml").unlink()
    assert forge.run("realize", "toy").stdout == first


def test_a_relative_configuration_folder_is_ignored(forge: Forge) -> None:
    forge.recipe("toy", TOY)
    folder = forge.root / "relative" / "mmojo-forge"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[trsut]\n")
    forge.environment["XDG_CONFIG_HOME"] = "relative"
    forge.run("list")
    forge.environment["XDG_CONFIG_HOME"] = str(folder.parent)
    assert forge.error("list")["reason"] == "settings-malformed"


def test_a_user_without_a_home_is_told_what_to_set(forge: Forge) -> None:
    """As in a container that is started with a user id of its own."""
    code = (
        "import os, pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from mmojo_forge.cli.main import main\n"
        "sys.exit(main())\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, "list"]
    done = subprocess.run(command, cwd=forge.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "HOME" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (forge.root / "~").exists()
