"""Extras: installed into forge's own environment only, when first used, and as the pinned files say."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from mmojo_forge import extras
from mmojo_forge.errors import ExitCode
from mmojo_forge.extras import Environment, ExtraError

REPOSITORY = Path(__file__).resolve().parents[2]
PINNED = REPOSITORY / "requirements"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Does what setup.sh does for the copies, and writes down how it was called.
SETUP = 'cd "$(dirname "$0")"; echo "$FORGE_VENV $*" >>called; cp "$1.txt" "$FORGE_VENV/requirements/{version}/"\n'


@pytest.fixture
def ours(tmp_path: Path) -> Environment:
    """An environment that ./forge made, without the extras."""
    environment = Environment(tmp_path / "venv", tmp_path / "check out")
    copies, pinned = environment.prefix / "requirements" / VERSION, environment.checkout / "requirements"
    copies.mkdir(parents=True)
    pinned.mkdir(parents=True)
    (pinned / "setup.sh").write_text(SETUP.format(version=VERSION))
    for name in ("forge", *extras.MODULES):
        (pinned / f"{name}.txt").write_text(f"{name}==1\n")
    (copies / "forge.txt").write_text("forge==1\n")
    return environment


def calls(environment: Environment) -> list[str]:
    called = environment.checkout / "requirements" / "called"
    return called.read_text().splitlines() if called.exists() else []


def test_an_extra_is_installed_once(ours: Environment) -> None:
    assert not ours.has("plot")
    ours.require("plot")
    ours.require("plot")
    assert calls(ours) == [f"{ours.prefix} plot"]
    assert ours.has("plot")
    assert not ours.has("s3")


def test_an_extra_is_installed_again_when_its_pins_change(ours: Environment) -> None:
    ours.require("plot")
    (ours.checkout / "requirements" / "plot.txt").write_text("plot==2\n")
    assert not ours.has("plot")
    ours.require("plot")
    assert len(calls(ours)) == 2


def test_a_failed_installation_names_the_command_that_repeats_it(ours: Environment) -> None:
    setup = ours.checkout / "requirements" / "setup.sh"
    setup.write_text("exit 3\n")
    with pytest.raises(ExtraError) as failed:
        ours.require("s3")
    assert (failed.value.reason, failed.value.exit_code) == ("extra-not-installed", ExitCode.ENVIRONMENT_ERROR)
    assert shlex.join(["env", f"FORGE_VENV={ours.prefix}", "sh", str(setup), "s3"]) in failed.value.detail


def test_an_environment_of_others_is_left_alone(ours: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours.prefix / "requirements" / VERSION / "forge.txt").unlink()
    monkeypatch.setattr(extras, "MODULES", {"plot": "a_module_that_nobody_has", "s3": "json"})
    with pytest.raises(ExtraError) as failed:
        ours.require("plot")
    assert failed.value.reason == "extra-missing"
    assert failed.value.detail == "Install it with `pip install 'mmojo-forge[plot]'`."
    ours.require("s3")
    assert calls(ours) == []


def test_an_environment_for_another_python_is_not_ours(ours: Environment) -> None:
    (ours.prefix / "requirements" / VERSION).rename(ours.prefix / "requirements" / "2.7")
    assert not ours.is_ours


def test_what_is_only_nice_to_have_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def require(extra: str) -> None:
        tried.append(extra)
        raise ExtraError("", reason="extra-missing")

    extras.has_extra.cache_clear()
    monkeypatch.setattr(extras, "require_extra", require)
    assert [extras.has_extra("inspect") for _ in range(3)] == [False] * 3
    assert tried == ["inspect"]
    extras.has_extra.cache_clear()


def test_each_extra_is_pinned_and_pip_knows_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {*extras.MODULES, "dev"}
    assert {path.stem for path in PINNED.glob("*.txt")} == {*extras.MODULES, "forge", "check"}


def test_all_pinned_files_agree() -> None:
    """Whatever is installed after what: no package is replaced by another version of it."""
    pins: dict[str, set[str]] = {}
    for path in PINNED.glob("*.txt"):
        for name, version in re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", path.read_text(), re.MULTILINE):
            pins.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}


def test_check_txt_contains_all_others() -> None:
    def hashed(path: Path) -> set[str]:
        return set(re.findall(r"sha256:[0-9a-f]{64}", path.read_text()))

    check = hashed(PINNED / "check.txt")
    for path in PINNED.glob("*.txt"):
        assert hashed(path) <= check, path.name
