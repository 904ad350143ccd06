"""Real programs for real linking: compiles them with zig and links them, once per test session."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape.link import link
from mmojo_forge.ape.spec import Asset, LinkSpec, SliceSpec

HERE = Path(__file__).parent
LAUNCHER = HERE.parents[1] / "mmojo_forge" / "ape" / "launcher"

# Best first. No CPU has both features of the first one, so every machine must pass it over.
SLICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "linux-x86_64-v9": ("x86_64-linux-musl", ("avx2", "amx_fp16", "avx512_vp2intersect")),
    "linux-x86_64-v3": ("x86_64-linux-musl", ("avx2", "fma", "bmi2")),
    "linux-x86_64-v1": ("x86_64-linux-musl", ()),
    "linux-aarch64-v8.2": ("aarch64-linux-musl", ("asimddp",)),
    "linux-aarch64-v8": ("aarch64-linux-musl", ()),
    "windows-x86_64-v9": ("x86_64-windows-gnu", ("amx_fp16", "avx512_vp2intersect")),
    "windows-x86_64-v1": ("x86_64-windows-gnu", ("ssse3",)),
    "macos-aarch64": ("aarch64-macos", ()),
}


@dataclass(frozen=True, slots=True)
class Compiler:
    """zig, with caches of its own."""

    zig: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """The environment zig runs in."""
        folders = {"ZIG_GLOBAL_CACHE_DIR": str(self.cache), "ZIG_LOCAL_CACHE_DIR": str(self.cache / "local")}
        return {**os.environ, **folders, "ZIG": str(self.zig)}

    def compile(self, *arguments: str) -> None:
        """Runs `zig cc`."""
        subprocess.run([str(self.zig), "cc", *arguments], env=self.environment(), check=True)

    def build_launchers(self, out: Path) -> None:
        """Runs the launchers' build script."""
        environment = {**self.environment(), "OUT": str(out)}
        subprocess.run(["sh", str(LAUNCHER / "build.sh")], env=environment, check=True)


def build_slices(compiler: Compiler, folder: Path) -> tuple[SliceSpec, ...]:
    """hello.c once per slice."""
    slices = []
    for name, (target, features) in SLICES.items():
        system, _, level = name.rpartition("-") if name.count("-") > 1 else (name, "", "")
        path = folder / name
        compiler.compile("-target", target, "-Os", "-s", f'-DSLICE="{name}"', "-o", str(path), str(HERE / "hello.c"))
        slices.append(SliceSpec(system, path, level, features))
    return tuple(slices)


def build_order(compiler: Compiler, folder: Path) -> LinkSpec:
    """Everything for one APE, compiled into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = build_slices(compiler, folder)
    compiler.build_launchers(folder)
    launchers = {system: folder / f"{system}.elf" for system in ("linux-x86_64", "linux-aarch64")}
    launchers["windows-x86_64"] = folder / "windows-x86_64.exe"
    return LinkSpec("hello", slices, launchers, (Asset("hello.c", HERE / "hello.c"),))


def build_ape(compiler: Compiler, folder: Path) -> Path:
    """The APE of these tests."""
    return link(build_order(compiler, folder), folder / "hello.ape").path
