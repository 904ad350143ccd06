"""Where modules, and the programs that can load them, are taken from and where not: they are code that is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.built import built, server_program
from tests.support.cuda_driver import make_driver
from tests.support.packed import devices

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modules are made for Linux")

PLACE = "mmojo-server-support/modules/linux-x86_64"
OTHER_ABI = b"0123456789abcdef"
NOBODY = 65534


@pytest.fixture(scope="module")
def lavapipe() -> Path:
    return built("lavapipe") / "bin" / "lavapipe"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A static server with a module, and the programs for glibc, in the support folder beside it."""
    found = tmp_path / "own" / "mmojo-server"
    found.parent.mkdir()
    shutil.copy(server_program(), found)
    for name, target in (("ggml-vulkan", "ggml-vulkan"), ("host", "mmojo-server.hosts")):
        shutil.copytree(built(target), found.parent / PLACE / name)
        (found.parent / PLACE / name).chmod(0o755)
    return found


def sees_the_device(done: subprocess.CompletedProcess[str]) -> bool:
    assert done.returncode == 0, done.stderr
    return "llvmpipe" in done.stdout


@pytest.mark.parametrize("folder", [".", "..", "../..", "ggml-vulkan", "host"])
def test_a_folder_that_anybody_may_write_to_is_left_alone(program: Path, lavapipe: Path, folder: str) -> None:
    assert sees_the_device(devices(program, {}, lavapipe))
    (program.parent / PLACE / folder).chmod(0o777)
    done = devices(program, {}, lavapipe)
    assert not sees_the_device(done)
    assert "is not used: anybody may write to it" in done.stderr
    # Whoever asks for it has it; and whoever may write to the program itself needs no module to change it.
    assert sees_the_device(devices(program, {"MMOJO_MODULES": str(program.parent / PLACE)}, lavapipe))
    program.chmod(0o777)
    assert sees_the_device(devices(program, {}, lavapipe))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give folders away")
def test_a_folder_of_another_user_is_left_alone_unless_the_program_is_theirs_too(program: Path, lavapipe: Path) -> None:
    os.chown(program.parent / "mmojo-server-support", NOBODY, NOBODY)
    done = devices(program, {}, lavapipe)
    assert not sees_the_device(done)
    assert "is not used: it belongs to another user" in done.stderr
    os.chown(program, NOBODY, NOBODY)
    assert sees_the_device(devices(program, {}, lavapipe))


def test_a_folder_that_is_asked_for_needs_no_programs_of_its_own(program: Path, lavapipe: Path, tmp_path: Path) -> None:
    (program.parent / PLACE / "ggml-vulkan").rename(tmp_path / "vulkan")
    assert not sees_the_device(devices(program, {}, lavapipe))
    assert sees_the_device(devices(program, {"MMOJO_MODULES": str(tmp_path / "vulkan")}, lavapipe))


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a compiler")
@pytest.mark.parametrize("target", ["ggml-cuda.lean-quick", "ggml-cuda.lean"])
def test_cuda_with_a_driver_and_no_card_is_one_line(target: str, program: Path, tmp_path: Path) -> None:
    """The real module, loaded by the real server, with a stand-in for the driver that says there is no device."""
    libraries = built("ggml-cuda.blas")
    module = built(target)
    shutil.rmtree(program.parent / PLACE / "ggml-vulkan")
    shutil.copytree(module, program.parent / PLACE / "ggml-cuda")
    make_driver(tmp_path, module / "libggml-cuda.so")
    done = devices(program, {"LD_LIBRARY_PATH": f"{tmp_path}:{libraries}"})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cuda" in line.lower()]
    assert "ggml-cuda is not used: there is a driver, but no device that it can use: ggml_cuda_init: failed" in line


def test_programs_of_another_ggml_are_told_of(program: Path, lavapipe: Path) -> None:
    abi = _abi()
    for host in (program.parent / PLACE / "host").iterdir():
        data = host.read_bytes()
        assert abi in data
        host.unlink()
        host.write_bytes(data.replace(abi, OTHER_ABI))
        host.chmod(0o755)
    done = devices(program, {}, lavapipe)
    assert not sees_the_device(done)
    assert "it is of another version of ggml" in done.stderr


def test_the_program_says_which_ggml_it_is_made_of() -> None:
    info = json.loads((built("mmojo-server.linux-x86_64-v3") / "build-info.json").read_text())
    assert info["ggml"] == {"abi": _abi().decode()}


def _abi() -> bytes:
    text = (built("ggml-vulkan") / "module.json").read_text()
    return text.partition('"abi": "')[2].partition('"')[0].encode()


def test_programs_that_may_not_be_run_are_told_of(program: Path, lavapipe: Path) -> None:
    for host in (program.parent / PLACE / "host").iterdir():
        host.chmod(0o644)
    done = devices(program, {}, lavapipe)
    assert not sees_the_device(done)
    assert "it cannot be started: Permission denied" in done.stderr


def test_where_there_are_no_programs_it_is_told_how_to_get_them(program: Path, lavapipe: Path) -> None:
    (program.parent / PLACE / "host").rename(program.parent / "elsewhere")
    done = devices(program, {}, lavapipe)
    assert not sees_the_device(done)
    assert "there is no mmojo-server that can load modules; `forge package --module` packs it" in done.stderr


def test_a_program_for_glibc_that_is_asked_for_its_version_by_mistake_says_so() -> None:
    host = built("mmojo-server.hosts") / "mmojo-server-v2"
    environment = {**os.environ, "MMOJO_PROBE": "something"}
    done = subprocess.run([host], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "MMOJO_PROBE is set" in done.stderr
