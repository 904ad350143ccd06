"""The same file on Windows, as far as Wine is Windows: the PE part and its launcher."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import LinkSpec
from tests.support.ape_programs import Compiler, build_order
from tests.support.wine import WINE


@pytest.fixture(scope="session")
def order(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> LinkSpec:
    base = tmp_path_factory.getbasetemp()
    return build_order(Compiler(zig, base / "zig-cache"), base / "ape-build")


@pytest.fixture(scope="session")
def ape(order: LinkSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link(order, tmp_path_factory.mktemp("ape") / "hello.exe").path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Wine of its own: its C: drive, LOCALAPPDATA and TEMP lie in a temporary folder."""
    prefix = tmp_path_factory.mktemp("wine")
    found = {"PATH": os.environ["PATH"], "HOME": str(prefix), "WINEPREFIX": str(prefix / "c"), "WINEDEBUG": "-all"}
    # Wine draws no window without a display, and asks for none of its add-ons.
    found |= {"WINEDLLOVERRIDES": "mscoree,mshtml=", "DISPLAY": "", "LC_ALL": "C.UTF-8"}
    subprocess.run([WINE, "wineboot", "--init"], env=found, capture_output=True, check=True, timeout=300)
    return found


def started(
    path: Path, arguments: list[str], environment: Mapping[str, str], **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WINE, str(path), *arguments],
        env={**environment, **more},
        input="line\nlast",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fields(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        found.setdefault(name, []).append(value)
    return found


def copies(environment: Mapping[str, str], place: str = "AppData/Local") -> list[Path]:
    """What lies in the cache folder, temporary files too."""
    return sorted(Path(environment["WINEPREFIX"]).glob(f"drive_c/users/*/{place}/ape/*/*"))


def test_it_starts_its_best_slice_and_hands_everything_on(ape: Path, environment: dict[str, str]) -> None:
    arguments = ["cat", "a b", "", 'quote"d', "größe漢字", "back\\", "*"]
    done = started(ape, arguments, environment)
    assert done.returncode == 0, done.stderr
    found = fields(done.stdout)
    assert found["slice"] == ["windows-x86_64-v1"]
    assert found["arg"] == arguments
    assert found["file"] == ["Z:" + str(ape).replace("/", "\\")]
    assert done.stdout.endswith("\nline\nlast")
    record = next(one for one in read_container(ape).slices if one.name == "windows-x86_64-v1")
    (copy,) = copies(environment)
    assert (copy.parent.name, copy.name) == (record.sha256, "hello.exe")


def test_the_exit_code_is_the_programs(ape: Path, environment: dict[str, str]) -> None:
    assert started(ape, ["exit", "42"], environment).returncode == 42


def test_a_slice_can_be_named_and_must_exist(ape: Path, environment: dict[str, str]) -> None:
    done = started(ape, [], environment, APE_SLICE="windows-x86_64-v1")
    assert fields(done.stdout)["slice"] == ["windows-x86_64-v1"]
    done = started(ape, [], environment, APE_SLICE="windows-x86_64-v7")
    assert done.returncode == 127
    assert "windows-x86_64-v7" in done.stderr


def test_a_file_without_a_fitting_slice_says_what_it_has(
    order: LinkSpec, environment: dict[str, str], tmp_path: Path
) -> None:
    for name, code in (("windows-x86_64-v9", 126), ("linux-x86_64-v1", 127)):
        slices = tuple(one for one in order.slices if one.name == name)
        path = link(LinkSpec(order.program, slices, order.launchers), tmp_path / "few.exe").path
        done = started(path, [], environment)
        assert done.returncode == code
        assert name in done.stderr


@pytest.mark.parametrize("name", ["with space.exe", "größe-漢字.exe", "quote's & more.exe"])
def test_any_file_name_will_do(ape: Path, environment: dict[str, str], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    shutil.copy(ape, path)
    done = started(path, ["a"], environment)
    assert done.returncode == 0, done.stderr
    assert fields(done.stdout)["file"] == ["Z:" + str(path).replace("/", "\\")]


def test_a_copy_of_the_wrong_size_is_replaced(ape: Path, environment: dict[str, str]) -> None:
    started(ape, [], environment)
    (copy,) = copies(environment)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1])
    assert started(ape, ["exit", "3"], environment).returncode == 3
    assert copy.read_bytes() == whole
    assert copies(environment) == [copy]


def test_first_starts_at_once_all_work(ape: Path, environment: dict[str, str]) -> None:
    for copy in copies(environment):
        copy.unlink()
    command = [WINE, str(ape), "exit", "5"]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(120) for process in running] == [5] * 4
    assert len(copies(environment)) == 1


def test_without_localappdata_it_unpacks_to_temp(ape: Path, environment: dict[str, str]) -> None:
    # An empty variable counts as none; Wine would put back one that is only missing.
    cmd = [WINE, "cmd", "/c", "set LOCALAPPDATA=C:\\windows\\win.ini\\no&& " + "Z:" + str(ape).replace("/", "\\")]
    done = subprocess.run(cmd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "slice=windows-x86_64-v1" in done.stdout, done.stderr
    assert len(copies(environment, "Temp") or copies(environment, "AppData/Local/Temp")) == 1


@pytest.mark.parametrize("fault, word", [("cut", "truncated"), ("flip", "altered")])
def test_a_damaged_file_says_so_and_leaves_nothing(
    ape: Path, environment: dict[str, str], tmp_path: Path, fault: str, word: str
) -> None:
    for copy in copies(environment):
        copy.unlink()
    record = next(one for one in read_container(ape).slices if one.name == "windows-x86_64-v1")
    data = bytearray(ape.read_bytes())
    if fault == "cut":
        del data[record.offset + record.size - 1 :]
    else:
        data[record.offset + record.size // 2] ^= 1
    path = tmp_path / "damaged.exe"
    path.write_bytes(data)
    done = started(path, [], environment)
    assert done.returncode == 126
    assert word in done.stderr
    assert copies(environment) == []


def test_the_child_dies_with_the_launcher(ape: Path, environment: dict[str, str]) -> None:
    """The launcher's own process is killed; its job takes the program along, whose end closes the pipe."""
    command = [WINE, str(ape), "wait"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while (line := process.stdout.readline()) not in {"ready\n", ""}:
            lines.append(line)
        assert line == "ready\n", lines
        process.kill()
        begun = time.monotonic()
        assert process.stdout.read() == ""
        assert time.monotonic() - begun < 30  # it would have waited for 60 seconds
