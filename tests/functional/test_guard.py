"""The guard in every program: on a CPU that has less than the compiler was allowed, it says what is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

GUARD = REPOSITORY / "recipes" / "lib" / "guard"
V86 = "generic+v8_2a+dotprod+fullfp16+i8mm"
V4X = "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"


@pytest.fixture
def compiler(zig: Path, tmp_path: Path) -> dict[str, str]:
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "cache"), "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "cache")}
    return {**os.environ, **cache, "ZIG": str(zig)}


def run(command: list[str | Path], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


def macros(compiler: dict[str, str], target: str, cpu: str) -> str:
    command: list[str | Path] = ["sh", GUARD / "macros.sh", compiler["ZIG"], "cc", "-target", target, f"-mcpu={cpu}"]
    return run(command, compiler)


def program(compiler: dict[str, str], folder: Path, target: str, plainest: str, header: str) -> Path:
    """A program that does nothing but to ask its guard."""
    (folder / "macros.h").write_text(header)
    (folder / "main.c").write_text('#include <stdio.h>\nint main(void) { puts("runs"); return 0; }\n')
    out = folder / "program"
    define = f'-DFORGE_MACROS="{folder}/macros.h"'
    options = ["-target", target, f"-mcpu={plainest}", "-O1", define]
    run([compiler["ZIG"], "cc", *options, GUARD / "guard.c", folder / "main.c", "-o", out], compiler)
    return out


def start(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_an_arm_program_runs_where_the_cpu_has_all_and_names_what_another_lacks(
    compiler: dict[str, str], tmp_path: Path
) -> None:
    header = macros(compiler, "aarch64-linux-musl", V86)
    guarded = program(compiler, tmp_path, "aarch64-linux-musl", "generic", header)
    assert start("qemu-aarch64-static", "-cpu", "max", guarded).stdout == "runs\n"
    refused = start("qemu-aarch64-static", "-cpu", "cortex-a53", guarded)
    assert refused.returncode == 1
    assert "atomics asimdhp asimdrdm asimddp i8mm." in refused.stderr
    assert "mmojo-server.ape" in refused.stderr


def test_an_x86_program_names_what_is_missing(compiler: dict[str, str], tmp_path: Path) -> None:
    """A CPU with AMX and Knights Mill's 4FMAPS does not exist; the guard sees the first as missing on any other."""
    flags = Path("/proc/cpuinfo").read_text()
    missing = "AMX_TILE" if "amx_tile" not in flags else "SSE4A"
    guarded = program(compiler, tmp_path, "x86_64-linux-musl", "x86_64", f"#define NEED_{missing} 1\n")
    refused = start(guarded)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert missing.lower() in refused.stderr
    plain = program(compiler, tmp_path, "x86_64-linux-musl", "x86_64", macros(compiler, "x86_64-linux-musl", "x86_64"))
    assert start(plain).stdout == "runs\n"


def test_what_the_guard_asks_for_is_what_the_compiler_was_allowed(compiler: dict[str, str]) -> None:
    header = macros(compiler, "x86_64-linux-musl", V4X)
    for name in ("AVX2", "AVX512F", "AVX512VNNI", "AVX512VBMI", "FMA", "F16C", "BMI2", "LZCNT", "MOVBE"):
        assert f"#define NEED_{name} 1\n" in header
    assert "AVX512BF16" not in header
    assert "AVX" not in macros(compiler, "x86_64-linux-musl", "x86_64_v2")


def test_every_instruction_set_that_gcc_may_use_is_one_that_the_guard_can_ask_for() -> None:
    """The options for gcc, turned into macros by gcc itself, and found in the guard's table."""
    library = (REPOSITORY / "recipes" / "lib" / "gcc.py").read_text()
    table = library.partition("GCC_OPTIONS = {")[2].partition("}")[0]
    options = [part.split('"')[1] for part in table.split(":")[1:]]
    assert "-mavx512vnni" in options
    known = (GUARD / "guard.c").read_text()
    unchecked = {"-mcx16", "-msahf", "-maes", "-mpclmul", "-madx", "-msha"}
    for option in sorted(set(options) - unchecked):
        macro = option.removeprefix("-m").upper().replace(".", "_").replace("-", "_").replace("ABM", "LZCNT")
        assert f"#ifdef NEED_{macro}\n" in known, option
