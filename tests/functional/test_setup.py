"""How ./forge sets itself up, and requirements/*.sh; the command line and the package are made here, so no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Says what it was started with, and that the installed package can be imported.
MAIN = """
import json, os, site, sys
def main():
    site.main()
    import tiny
    print(json.dumps({"arguments": sys.argv[1:], "tiny": tiny.VERSION, "prefix": sys.prefix}))
    return 0
"""
MAKING = "making the Python environment"
INSTALLING = "installing the Python packages"


@dataclass
class Checkout:
    """A checkout with forge's own scripts."""

    root: Path
    wheels: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shutil.copytree(REPOSITORY / "requirements", self.root / "requirements", ignore=shutil.ignore_patterns("*.txt"))
        shutil.copy(REPOSITORY / "forge", self.root)
        for name, text in (("__init__", ""), ("cli/__init__", ""), ("cli/main", MAIN)):
            path = self.root / "mmojo_forge" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.pin("forge", "tiny", "1.0")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def pin(self, name: str, package: str, version: str) -> Path:
        """Write NAME.txt with one package, whose wheel is made."""
        wheel = self.wheels / f"{package}-{version}-py3-none-any.whl"
        info = f"{package}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{package}.py", f"VERSION = {version!r}\n")
            file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        pinned = self.root / "requirements" / f"{name}.txt"
        pinned.write_text(f"{package}=={version} --hash=sha256:{digest}\n")
        return pinned

    def start(self, *command: str | Path, **more: Any) -> subprocess.Popen[str]:
        passed = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LD_LIBRARY_PATH"}}
        environment = {
            **passed,
            "FORGE_PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            **self.environment,
        }
        given = [str(word) for word in command or (self.root / "forge", "list")]
        pipe = subprocess.PIPE
        return subprocess.Popen(given, env=environment, stdout=pipe, stderr=pipe, text=True, **more)

    def run(self, *command: str | Path, expect: int = 0, **more: Any) -> tuple[str, str]:
        """What it printed on stdout and stderr."""
        with self.start(*command, **more) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
        return out, err


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name in ("check out", "wheels"):
        (tmp_path / name).mkdir()
    return Checkout(tmp_path / "check out", tmp_path / "wheels")


def test_the_first_start_sets_up_and_later_ones_do_not(checkout: Checkout) -> None:
    out, err = checkout.run()
    assert json.loads(out) == {"arguments": ["list"], "tiny": "1.0", "prefix": str(checkout.venv)}
    assert MAKING in err
    assert not list(checkout.venv.glob("lib/*/site-packages/pip"))
    assert checkout.run() == (out, "")
    assert checkout.run("sh", "forge", "list", cwd=checkout.root) == (out, "")


def test_content_decides_whether_packages_are_fresh(checkout: Checkout) -> None:
    checkout.run()
    tomorrow, long_ago = 2**32, 1
    pinned = checkout.root / "requirements" / "forge.txt"
    os.utime(pinned, (tomorrow, tomorrow))
    assert checkout.run()[1] == ""
    os.utime(checkout.pin("forge", "tiny", "2.0"), (long_ago, long_ago))
    out, err = checkout.run()
    assert json.loads(out)["tiny"] == "2.0"
    assert INSTALLING in err
    assert checkout.run()[1] == ""


def test_two_first_starts_at_once(checkout: Checkout) -> None:
    with checkout.start() as one, checkout.start() as other:
        printed = [process.communicate(timeout=120) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), printed
    assert sum(MAKING in err for _, err in printed) == 1


def test_a_set_up_that_failed_is_done_again(checkout: Checkout) -> None:
    pinned = checkout.root / "requirements" / "forge.txt"
    right = pinned.read_text()
    pinned.write_text(right.partition("sha256:")[0] + "sha256:" + "0" * 64 + "\n")
    out, err = checkout.run(expect=3)
    assert (out, MAKING in err) == ("", True)
    pinned.write_text(right)
    out, err = checkout.run()
    assert json.loads(out)["tiny"] == "1.0"
    assert MAKING in err


def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.run()
    (checkout.venv / "bin" / "python").unlink()
    out, err = checkout.run()
    assert json.loads(out)["tiny"] == "1.0"
    assert MAKING in err


def test_an_environment_of_somebody_else_is_left_alone(checkout: Checkout) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout.venv], check=True)
    before = sorted(checkout.venv.rglob("*"))
    out, _ = checkout.run(expect=3)
    assert out == ""
    assert sorted(checkout.venv.rglob("*")) == before


def test_a_colon_in_the_path(tmp_path: Path) -> None:
    for name in ("a:b", "wheels"):
        (tmp_path / name).mkdir()
    checkout = Checkout(tmp_path / "a:b", tmp_path / "wheels")
    assert json.loads(checkout.run()[0])["prefix"] == str(checkout.venv)
    assert checkout.run()[1] == ""


def test_what_the_user_tells_other_pythons(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "mmojo_forge").mkdir(parents=True)
    (tmp_path / "elsewhere" / "mmojo_forge" / "__init__.py").write_text("raise SystemExit(9)")
    checkout.environment = {"PYTHONHOME": "/x", "PYTHONPATH": str(tmp_path / "elsewhere")}
    assert checkout.run()[0] == checkout.run(cwd=tmp_path / "elsewhere")[0]


def test_an_extra_is_added_to_the_environment(checkout: Checkout) -> None:
    checkout.run()
    checkout.pin("plot", "drawing", "3.0")
    _, err = checkout.run("sh", checkout.root / "requirements" / "setup.sh", "plot")
    assert INSTALLING in err
    out, _ = checkout.run(checkout.venv / "bin" / "python", "-c", "import drawing, tiny; print(drawing.VERSION)")
    assert out == "3.0\n"
    assert {path.name for path in (checkout.venv / "requirements" / VERSION).iterdir()} == {"forge.txt", "plot.txt"}
    assert checkout.run("sh", checkout.root / "requirements" / "setup.sh", "plot", "echo", "done") == ("done\n", "")


@pytest.mark.parametrize("install", ["", "yes"])
def test_debian_packages_are_installed_only_where_the_command_may(checkout: Checkout, install: str) -> None:
    programs = checkout.root / "programs"
    programs.mkdir()
    for name, script in (("apt-get", f'echo "$@" >>"{programs}/called"'), ("id", "echo 0")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    checkout.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "FORGE_INSTALL": install}
    _, err = checkout.run("sh", checkout.root / "requirements" / "debian.sh", "hello", expect=0 if install else 3)
    called = programs / "called"
    assert called.exists() == bool(install)
    assert ("apt-get install -y --no-install-recommends hello" in err) != bool(install)


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    start = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from mmojo_forge.cli.main import main; sys.exit(main())"
    )
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    for words in (["list"], ["realize", "hello"]):
        command = ["sh", "-c", script, "sh", sys.executable, "-P", "-c", start, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
