"""A workspace of a test's own, and `forge` as a process in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.model.lockfile import Lock

REPOSITORY = Path(__file__).resolve().parents[2]
HEAD = """
from mmojo_forge.recipe import Files, Package, Pypi, Spec, recipe

BUSYBOX = "/forge/busybox/bin/busybox"


def sh(name, script, **more):
    inputs = {"busybox": Package("busybox"), **more.pop("inputs", {})}
    return Spec(name, BUSYBOX, ("sh", "-euc", script), inputs, **more)

"""


@dataclass
class Forge:
    """Runs `forge` in a workspace; everything it may touch lies below one temporary folder."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.root / "store"

    def recipe(self, package: str, text: str) -> Path:
        """Write a recipe, with a helper `sh(name, script)` for builds by busybox."""
        file = self.root / "recipes" / package / "recipe.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEAD + text)
        return file

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "PYTHONPATH": str(REPOSITORY),
            **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))},
            **self.environment,
        }
        # Whoever runs the tests in the background ignores SIGINT, and so would everything below.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "mmojo_forge", *arguments]
        return subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
        )

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The finished process, which must have ended with `expect`."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def realize(self, *targets: str) -> list[Path]:
        """Where the targets lie, after they were realised."""
        return [Path(line) for line in self.run("realize", "--quiet", *targets).stdout.splitlines()]

    def error(self, *arguments: str, expect: int = 2) -> dict[str, str]:
        """The error that the command ends with, as JSON tells it."""
        done = self.run(*arguments, "--json", expect=expect)
        errors = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"error"')]
        assert len(errors) == 1, done.stderr
        fields: dict[str, str] = errors[0]["error"]
        return fields

    def built(self, *targets: str) -> list[str]:
        """The names of the nodes that a realisation of the targets built, fetched or imported."""
        done = self.run("realize", "--json", *targets)
        events = [json.loads(line) for line in done.stderr.splitlines()]
        return [event["name"] for event in events if event["event"] == "started"]


@pytest.fixture
def forge(tmp_path: Path, busybox: Path) -> Iterator[Forge]:
    """A workspace with the busybox toolchain, and a store of its own that has it already."""
    root = tmp_path / "work space"
    (root / "toolchains").mkdir(parents=True)
    (root / "home").mkdir()
    shutil.copytree(REPOSITORY / "toolchains" / "busybox", root / "toolchains" / "busybox")
    lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
    (root / "forge.lock").write_text(Lock(userlands={"busybox": lock.userlands["busybox"]}).dump())
    yield Forge(root)
