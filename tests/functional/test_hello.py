"""The repository's own small recipes, all the way: C and C++ for four systems, one file, run where it can be run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, realize
from tests.support.wine import WINE

SYSTEMS = ("linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-aarch64")


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    """The folder of each system's programs."""
    targets = ["hello", *(f"hello.{system}" for system in SYSTEMS if system != "linux-x86_64")]
    return {system: path / "bin" for system, path in zip(SYSTEMS, realize(*targets), strict=True)}


@pytest.fixture(scope="module")
def wine_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a Wine prefix of its own."""
    return {**os.environ, "WINEPREFIX": str(tmp_path_factory.mktemp("wine")), "WINEDEBUG": "-all"}


def check_words(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, input=b"b a b\n", capture_output=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"a", b"1", b"b", b"2"]


def test_c_plus_plus_runs_natively(programs: dict[str, Path]) -> None:
    check_words([str(programs["linux-x86_64"] / "words")])


def test_c_plus_plus_runs_on_arm(programs: dict[str, Path]) -> None:
    check_words(["qemu-aarch64-static", str(programs["linux-aarch64"] / "words")])


def test_c_plus_plus_runs_on_windows(programs: dict[str, Path], wine_environment: dict[str, str]) -> None:
    check_words([WINE, str(programs["windows-x86_64"] / "words.exe")], wine_environment)


def test_the_macos_program_is_a_signed_mach_o(programs: dict[str, Path]) -> None:
    """Mach-O 64-bit magic, CPU type arm64, a code signature load command (0x1d) whose data has the signature magic."""
    data = (programs["macos-aarch64"] / "words").read_bytes()
    assert data[:8] == bytes.fromhex("cffaedfe0c000001")
    commands, at = int.from_bytes(data[16:20], "little"), 32
    found = []
    for _ in range(commands):
        kind, size = (int.from_bytes(data[at + step : at + step + 4], "little") for step in (0, 4))
        if kind == 0x1D:
            found.append(int.from_bytes(data[at + 8 : at + 12], "little"))
        at += size
    assert len(found) == 1
    assert data[found[0] : found[0] + 4] == bytes.fromhex("fade0cc0")


@pytest.fixture(scope="module")
def ape() -> Path:
    """The hello programs in one file."""
    return realize("hello.ape")[0]


def test_one_file_runs_under_every_shell(ape: Path, tmp_path: Path) -> None:
    for shell in ("sh", "bash", "dash", "zsh", "busybox sh"):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            [*shell.split(), str(ape), "a b", "c"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, (shell, done.stderr)
        assert done.stdout.splitlines() == [
            "hello from linux-x86_64",
            f"container {ape}",
            "argument a b",
            "argument c",
        ]


def test_the_same_file_runs_on_windows(ape: Path, tmp_path: Path, wine_environment: dict[str, str]) -> None:
    program = tmp_path / "hello there.exe"
    shutil.copyfile(ape, program)
    done = subprocess.run(
        [WINE, str(program), "a b"], env=wine_environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0] == "hello from windows-x86_64"
    assert done.stdout.splitlines()[-1] == "argument a b"


def test_inspect_finds_every_byte_as_it_was_linked(ape: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmojo_forge", "ape", "inspect", "--json", str(ape)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(done.stdout)
    assert document["verified"]
    assert [one["system"] for one in document["slices"]] == list(SYSTEMS)
    assert all(one["offset"] % 65536 == 0 for one in document["slices"])
