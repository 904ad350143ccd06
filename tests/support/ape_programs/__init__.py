"""Real programs for real linking: compiles them with zig and links them, once per test session."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape.write.spec import Asset, LinkSpec, SliceSpec

HERE = Path(__file__).parent
HELLO = str(HERE / "hello.c")
LAUNCHER = HERE.parents[2] / "mmojo_forge" / "ape" / "launcher"

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
    """zig, and where it keeps what it compiled."""

    zig: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """The environment zig runs in. ZIG_GLOBAL_CACHE_DIR, when set, keeps its C libraries from run to run."""
        folders = {"ZIG_GLOBAL_CACHE_DIR": str(self.cache), "ZIG_LOCAL_CACHE_DIR": str(self.cache / "local")}
        return {**folders, **os.environ, "ZIG": str(self.zig)}

    def compile(self, *arguments: str) -> None:
        """Runs `zig cc`."""
        subprocess.run([str(self.zig), "cc", *arguments], env=self.environment(), check=True)

    def library_folder(self) -> Path:
        """zig's lib folder."""
        command = [str(self.zig), "env"]
        told = subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True).stdout
        found = re.search(r'lib_dir\W+"([^"]*)"', told)
        assert found is not None, told
        return Path(found[1])

    def build_launchers(self, out: Path) -> None:
        """Runs the launchers' build script."""
        environment = {**self.environment(), "OUT": str(out)}
        subprocess.run(["sh", str(LAUNCHER / "build.sh")], env=environment, check=True)


def flags_for(compiler: Compiler, target: str) -> list[str]:
    """How to compile a program without a C library for `target`."""
    bare = ["-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-sanitize=all", "-fno-builtin"]
    common = ["-target", target, "-Os", "-s", "-Wno-unused-function", f"-I{LAUNCHER}"]
    if "linux" in target:
        return [*common, *bare, "-static", "-fPIC", "-Wl,-e,_start"]
    if "windows" in target:
        headers = compiler.library_folder() / "libc" / "include" / "any-windows-any"
        return [*common, *bare, "-isystem", str(headers), "-Wl,-e,start", "-lkernel32", "-lshell32"]
    return common


def compile_all(compiler: Compiler, folder: Path) -> None:
    """hello.c once per slice, and the launchers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (target, _) in SLICES.items():
        compiler.compile(*flags_for(compiler, target), f'-DSLICE="{name}"', "-o", str(folder / name), HELLO)
    compiler.build_launchers(folder)


def _parse_name(name: str) -> tuple[str, str]:
    """System and level."""
    machine = name.split("-")[1]
    system = name.partition("-")[0] + "-" + machine
    return system, name[len(system) + 1 :]


def build_order(compiler: Compiler, folder: Path) -> LinkSpec:
    """Everything for one APE in `folder`: compiled there, unless an earlier test of this session did it."""
    done = folder / "done"
    if not done.exists():
        compile_all(compiler, folder)
        done.touch()
    slices = []
    for name, (_, features) in SLICES.items():
        system, level = _parse_name(name)
        slices.append(SliceSpec(system, folder / name, level, features))
    launchers = {system: folder / f"{system}.elf" for system in ("linux-x86_64", "linux-aarch64")}
    launchers["windows-x86_64"] = folder / "windows-x86_64.exe"
    return LinkSpec("hello", tuple(slices), launchers, (Asset("hello.c", Path(HELLO)),))
