"""The Vulkan module as it was built: what it says and needs, and what it computes on a device made of the CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.built import REPOSITORY, built

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modules are made for Linux")

CHECK = REPOSITORY / "recipes" / "ggml-module" / "check" / "check-module.sh"
STRANGER = """
#include <stdio.h>
extern int nobody_has_this(void), stray(void), _dl_signal_error(void);
int ggml_backend_init(void) { return nobody_has_this() + stray() + _dl_signal_error(); }
int another(void) { return printf("/build/somewhere"); }
"""


@pytest.fixture(scope="module", params=["ggml-vulkan", "ggml-vulkan.plain"])
def module(request: pytest.FixtureRequest) -> Path:
    return built(request.param)


@pytest.fixture(scope="module")
def trial() -> Path:
    return built("ggml-vulkan.trial") / "bin" / "module-trial"


@pytest.fixture(scope="module")
def lavapipe() -> Path:
    return built("lavapipe")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run([str(word) for word in command], env=given, capture_output=True, text=True, check=False)


def test_it_says_which_ggml_it_is_for_and_what_it_needs(module: Path) -> None:
    said: dict[str, Any] = json.loads((module / "module.json").read_text())
    note = f"ggml={said['ggml']['abi']}\nneeds=libvulkan.so.1\n\0".encode()
    assert (said["backend"], said["system"], said["needs"]) == ("vulkan", "linux-x86_64", "libvulkan.so.1")
    # Of an ELF note: size of the owner and of the text, type 1, the owner.
    assert struct.pack("<III", 6, len(note), 1) + b"mmojo\0\0\0" + note in (module / "libggml-vulkan.so").read_bytes()


def test_it_says_what_glslc_was_able_to(module: Path) -> None:
    glslc = json.loads((module / "module.json").read_text())["glslc"]
    assert glslc["version"].startswith("shaderc ")
    assert {"coopmat", "coopmat2", "integer_dot", "bfloat16"} <= set(glslc["extensions"])
    assert all(isinstance(able, bool) for able in glslc["extensions"].values())


def test_shaders_for_matrix_cores_are_in_the_module_unless_it_is_plain() -> None:
    found = {}
    for name in ("ggml-vulkan", "ggml-vulkan.plain"):
        extensions = json.loads((built(name) / "module.json").read_text())["glslc"]["extensions"]
        found[name] = {extensions[one] for one in ("coopmat", "coopmat2", "integer_dot")}
    assert found == {"ggml-vulkan": {True}, "ggml-vulkan.plain": {False}}


def test_it_has_no_path_of_where_it_was_built(module: Path) -> None:
    content = (module / "libggml-vulkan.so").read_bytes()
    assert b"/build/" not in content
    assert b"/forge/" not in content


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs binutils")
def test_it_can_be_loaded_wherever_glibc_2_28_is(module: Path, tmp_path: Path) -> None:
    done = check_module(module / "libggml-vulkan.so", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not (shutil.which("readelf") and shutil.which("cc")), reason="needs binutils and a compiler")
def test_a_library_that_is_no_module_is_named_with_all_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "stray.c").write_text("int stray(void) { return 1; }")
    (tmp_path / "stranger.c").write_text(STRANGER)
    stray, library = tmp_path / "libstray.so.1", tmp_path / "stranger.so"
    shared = ("cc", "-shared", "-fPIC")
    subprocess.run([*shared, tmp_path / "stray.c", "-Wl,-soname,libstray.so.1", "-o", stray], check=True)
    elsewhere = "-Wl,-rpath,/usr/local/lib"
    subprocess.run([*shared, tmp_path / "stranger.c", stray, elsewhere, "-o", library], check=True)
    done = check_module(library, tmp_path)
    assert done.returncode == 1
    complaints = [
        line.removeprefix(f"{library}: ").partition(":")[0] for line in done.stderr.splitlines() if library.name in line
    ]
    assert complaints == [
        "needs a library that not every machine has",
        "looks for libraries elsewhere than beside itself",
        "needs a glibc that not every machine has",
        "does not export ggml_backend_init alone",
        "needs what nobody has",
        "can be unloaded, with destructors left to run",
        "says nothing of itself",
        "has paths of the sandbox in it",
    ]


def test_on_a_device_it_computes_what_the_cpu_does(module: Path, trial: Path, lavapipe: Path) -> None:
    """F16 and Q4_K, one column and many: by four shaders, compiled by LLVM the first time (a minute), then cached."""
    done = run(lavapipe / "bin" / "lavapipe", trial, module / "libggml-vulkan.so")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0][:2] == ["device", "Vulkan0"]
    assert "llvmpipe" in lines[0][2]
    assert [line[:2] for line in lines[1:]] == [["agrees", name] for name in ("f16", "f16", "q4_K", "q4_K")]


def test_a_device_made_of_the_cpu_is_left_out_unless_it_is_named(module: Path, trial: Path, lavapipe: Path) -> None:
    command = (
        lavapipe / "bin" / "lavapipe",
        "env",
        "-u",
        "GGML_VK_VISIBLE_DEVICES",
        trial,
        module / "libggml-vulkan.so",
    )
    done = run(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "it has no device" in done.stderr


@pytest.mark.parametrize("driver", ["missing", "garbage"])
def test_without_a_driver_there_is_no_device_and_no_crash(
    driver: str, module: Path, trial: Path, lavapipe: Path, tmp_path: Path
) -> None:
    """The loader is there, but no driver is, or one that is none: the program goes on, with its CPU."""
    (tmp_path / "garbage.json").write_text('{"ICD": {"library_path": "./nothing.so"}, "file_format_version": "1.0.0"}')
    where = str(tmp_path / f"{driver}.json")
    command = ("env", "-u", "GGML_VK_VISIBLE_DEVICES", f"VK_DRIVER_FILES={where}", f"VK_ICD_FILENAMES={where}", trial)
    done = run(lavapipe / "bin" / "lavapipe", *command, module / "libggml-vulkan.so")
    assert (done.returncode, done.stdout) == (2, "")
    assert "it has no device" in done.stderr or "ggml_backend_init returned NULL" in done.stderr


def test_without_a_loader_that_is_one_it_is_refused_by_name(module: Path, trial: Path, tmp_path: Path) -> None:
    """The machine may have one; an empty file is found before it."""
    (tmp_path / "libvulkan.so.1").touch()
    done = run(trial, module / "libggml-vulkan.so", LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "libvulkan.so.1" in done.stderr


def check_module(library: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What the build runs on the module that it made."""
    loader = REPOSITORY / "recipes" / "ggml-vulkan" / "module" / "loader.c"
    known = "|".join(re.findall(r"^void (vk\w+)\(void\)", loader.read_text(), re.MULTILINE))
    return run("sh", CHECK, library, "readelf", tmp_path, "libvulkan.so.1", known, "")
