"""The CUDA module as it was built: what it says, needs and shows, and that it loads. One test needs a GPU."""

from __future__ import annotations

import ctypes
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

from tests.support.built import REPOSITORY, built, find
from tests.support.cuda_driver import make_driver

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="modules are made for Linux")]

CHECK = REPOSITORY / "recipes" / "ggml-module" / "check" / "check-module.sh"
NAME = "libggml-cuda.so"

STRANGER = """
extern int nobody_has_this(void);
int ggml_backend_init(void) { return nobody_has_this(); }
int another(void) { return 1; }
"""

needs_binutils = pytest.mark.skipif(not shutil.which("readelf"), reason="needs binutils")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def has_a_card() -> bool:
    """Whether NVIDIA's driver is here and has a device."""
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except (OSError, AttributeError):
        return False


@pytest.fixture(scope="module", params=["ggml-cuda.lean-quick", "ggml-cuda.lean", "without flash attention"])
def module(request: pytest.FixtureRequest) -> Path:
    return built(request.param) if request.param.startswith("ggml") else without_flash_attention()


def without_flash_attention() -> Path:
    return built("ggml-cuda.lean-quick", fa="false")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run([str(word) for word in command], env=given, capture_output=True, text=True, check=False)


def read(*command: object) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


def facts(module: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((module / "module.json").read_text())
    return said


def test_it_says_which_ggml_it_is_for_and_what_it_needs(module: Path) -> None:
    said = facts(module)
    note = f"ggml={said['ggml']['abi']}\nneeds=libcuda.so.1\ndriver=13000\n\0".encode()
    assert (said["backend"], said["system"], said["needs"], said["driver"]) == (
        "cuda",
        "linux-x86_64",
        "libcuda.so.1",
        13000,
    )
    # Of an ELF note: size of the owner and of the text, type 1, the owner.
    assert struct.pack("<III", 6, len(note), 1) + b"mmojo\0\0\0" + note in (module / NAME).read_bytes()


def test_the_list_of_architectures_is_in_it(module: Path) -> None:
    assert (",".join(facts(module)["architectures"]) + "\0").encode() in (module / NAME).read_bytes()


def test_flash_attention_is_in_it_or_not() -> None:
    """What was left out shows in what the module says of itself, and in its size."""
    full, bare = built("ggml-cuda.lean-quick"), without_flash_attention()
    assert (facts(full)["flash_attention"], facts(bare)["flash_attention"]) == (True, False)
    assert (bare / NAME).stat().st_size < (full / NAME).stat().st_size


@needs_binutils
def test_it_can_be_loaded_wherever_glibc_2_28_is(module: Path, tmp_path: Path) -> None:
    done = check_module(module / NAME, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@needs_binutils
def test_it_needs_driver_and_cublas_by_name_and_looks_beside_itself(module: Path) -> None:
    dynamic = read("readelf", "-dW", module / NAME)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert {"libcuda.so.1", "libcublas.so.13"} <= needed
    assert not {name for name in needed if "stdc++" in name or "gcc_s" in name or "cudart" in name}
    assert re.findall(r"\((RPATH|RUNPATH)\).*\[(.*)\]", dynamic) == [("RUNPATH", "$ORIGIN")]


@needs_binutils
def test_it_shows_one_function_and_keeps_all_others_to_itself(module: Path) -> None:
    rows = [line.split() for line in read("readelf", "--dyn-syms", "-W", module / NAME).splitlines()]
    symbols = [row for row in rows if len(row) >= 8 and row[0].rstrip(":").isdecimal()]
    assert [row[7] for row in symbols if row[6] != "UND"] == ["ggml_backend_init"]
    wanted = {row[7] for row in symbols if row[6] == "UND" and row[4] != "WEAK" and "@" not in row[7]}
    assert {name for name in wanted if not re.match(r"ggml_|gguf_|cublas|cu[A-Z]", name)} == set()


def test_nothing_of_the_driver_and_of_where_it_was_built_is_in_the_result(module: Path) -> None:
    assert sorted(path.name for path in module.iterdir()) == [NAME, "module.json"]
    content = (module / NAME).read_bytes()
    for word in (b"/build/", b"/forge/", b"lib/stubs", b"tmpxft"):
        assert word not in content


@needs_binutils
@needs_compiler
def test_a_library_that_is_no_module_is_named_with_all_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "stranger.c").write_text(STRANGER)
    library = tmp_path / "stranger.so"
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "stranger.c", "-o", library], check=True)
    done = check_module(library, tmp_path)
    assert done.returncode == 1
    said = [line.removeprefix(f"{library}: ") for line in done.stderr.splitlines() if line.startswith(str(library))]
    assert [line.partition(":")[0] for line in said] == [
        "looks for libraries elsewhere than beside itself",
        "does not export ggml_backend_init alone",
        "needs what nobody has",
        "can be unloaded, with destructors left to run",
        "says nothing of itself",
    ]


@pytest.mark.skipif(not has_a_card(), reason="no card of NVIDIA's here")
def test_on_a_card_it_computes_what_the_cpu_does() -> None:
    """F16 and Q4_K, one column and many; the driver compiles the PTX the first time, which takes minutes."""
    done = run(built("ggml-vulkan.trial") / "bin" / "module-trial", built("ggml-cuda.quick") / NAME)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows[0][:2] == ["device", "CUDA0"]
    assert [row[:2] for row in rows[1:]] == [["agrees", name] for name in ("f16", "f16", "q4_K", "q4_K")]


def test_without_a_driver_it_is_refused_by_name(module: Path, tmp_path: Path) -> None:
    """The machine may have one; an empty file is found before it."""
    trial = built("ggml-vulkan.trial") / "bin" / "module-trial"
    (tmp_path / "libcuda.so.1").touch()
    done = run(trial, module / NAME, LD_LIBRARY_PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "libcuda.so.1" in done.stderr


@needs_compiler
def test_all_that_it_wants_of_ggml_is_in_the_program(module: Path, tmp_path: Path) -> None:
    """Loaded for real, every symbol resolved, with a stand-in for the driver: there is no device, and no crash."""
    trial = built("ggml-vulkan.trial") / "bin" / "module-trial"
    libraries = find("ggml-cuda.blas")
    if libraries is None:
        pytest.skip("ggml-cuda.blas is not built")
    make_driver(tmp_path, module / NAME)
    done = run(trial, module / NAME, LD_LIBRARY_PATH=f"{tmp_path}:{libraries}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "it has no device" in done.stderr
    assert "undefined symbol" not in done.stderr


@pytest.mark.parametrize(
    ("archs", "cause"),
    [("90 sm_91", "nvcc 13.0 makes no code of ggml for sm_91"), (" ", "the module would have code for no device")],
)
def test_an_architecture_that_nvcc_does_not_know_is_refused_before_anything_is_built(archs: str, cause: str) -> None:
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "realize", "--json", "mmojo-server.cuda"]
    done = run(*command, "--set", f"archs={archs}", PYTHONPATH=str(REPOSITORY))
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["reason"]) == (2, "bad-option")
    assert cause in error["message"]
    assert '"build"' not in done.stderr


def test_the_device_code_of_an_architecture_is_not_in_the_output_of_another() -> None:
    """The module is the only place where architectures meet."""
    host = built("ggml-cuda.host")
    assert {path.suffix for path in host.iterdir()} == {".o"}
    assert "fattn" in {path.stem for path in host.iterdir()}


def check_module(library: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What the build runs on the module that it made."""
    known = ("libcuda.so.1 libcublas.so.13", "cublas.*|cu[A-Z].*", "RUNPATH $ORIGIN")
    return run("sh", CHECK, library, "readelf", tmp_path, *known)
