"""`forge doctor`: checks whether this machine can build and run what forge makes, and says how to fix it if not."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.executor import availability, personality

# The free space that a build of mmojo-server.ape needs.
ENOUGH_BYTES = 12_000_000_000
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_NVIDIA = Path("/sys/module/nvidia/version")
_CUDA_DRIVER = 580
"""The least driver for CUDA 13.0, which builds `ggml-cuda` (NVIDIA, "CUDA Toolkit 13.0 Release Notes")."""
_DRIVER_VERSION = re.compile(r"(\d+)(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result of one check. `reason` and `detail` are empty if all is well; `fatal` means that no build can run."""

    subject: str
    state: str
    reason: str = ""
    detail: str = ""
    fatal: bool = True

    @property
    def ok(self) -> bool:
        """Whether the check found no problem."""
        return not self.reason


def examine(store: Path, binfmt: Path = _BINFMT, nvidia: Path = _NVIDIA) -> list[DoctorFinding]:
    """The findings of all checks: first what builds need, in the order they meet it, then what results need."""
    return [_python(), *_sandbox(), *_addresses(), *_disk(store), *_binfmt(binfmt), *_nvidia(nvidia)]


def _python() -> DoctorFinding:
    return DoctorFinding("python", ".".join(map(str, sys.version_info[:3])))


def _sandbox() -> Iterator[DoctorFinding]:
    for finding in availability.probe():
        yield DoctorFinding(finding.subject, finding.state, finding.reason, finding.detail)


def _addresses() -> Iterator[DoctorFinding]:
    """A finding only if builds cannot have a fixed memory layout. Most targets do not need it."""
    with personality.taken_on(personality.USUAL) as why:
        if why:
            yield DoctorFinding(
                "memory layout",
                f"builds cannot have a fixed memory layout: {why}",
                "addresses-not-fixed",
                "The container's system call filter forbids personality(2). Compilers that sort by address, such as\n"
                "NVIDIA's, then make different code each time, so ggml-cuda cannot be built. To allow it, start\n"
                "Docker or Podman with --security-opt seccomp=unconfined.",
                fatal=False,
            )


def _disk(store: Path) -> Iterator[DoctorFinding]:
    folder = next(parent for parent in (store, *store.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        yield DoctorFinding(
            "store", f"{store} is not writable", "store-permission", "Set FORGE_STORE to a folder that you own."
        )
        return
    free = shutil.disk_usage(folder).free
    state = f"{store}, {free / 1e9:.0f} GB free"
    if free < ENOUGH_BYTES:
        yield DoctorFinding(
            "store",
            state,
            "little-space",
            f"A build of mmojo-server.ape needs up to {ENOUGH_BYTES / 1e9:.0f} GB. Set FORGE_STORE to a larger disk.",
            fatal=False,
        )
    else:
        yield DoctorFinding("store", state)


def _binfmt(folder: Path) -> Iterator[DoctorFinding]:
    """A finding for each binfmt_misc handler that takes every file starting with MZ, before an APE's own launcher."""
    for entry in sorted(folder.glob("*")) if folder.is_dir() else ():
        text = _read(entry)
        if not text.startswith("enabled") or "magic 4d5a\n" not in text + "\n":
            continue
        yield DoctorFinding(
            "binfmt_misc",
            f"{entry.name} takes every file that starts with MZ",
            "binfmt-takes-mz",
            f"The kernel passes an APE that is started directly to {entry.name}. Start it with `sh FILE`, make a\n"
            f"native copy with `sh FILE --assimilate`, or turn the handler off: echo 0 | sudo tee {entry}",
            fatal=False,
        )


def _nvidia(version: Path) -> Iterator[DoctorFinding]:
    """A finding only if an NVIDIA driver is installed, because builds need none."""
    if found := _DRIVER_VERSION.fullmatch(_read(version).strip()):
        state = f"driver {found[0]}"
        if int(found[1]) >= _CUDA_DRIVER:
            yield DoctorFinding("nvidia", state)
            return
        yield DoctorFinding(
            "nvidia",
            state,
            "driver-too-old",
            f"ggml-cuda needs driver {_CUDA_DRIVER} or later. With an older one, the server uses the CPU.\n"
            "ggml-vulkan may work with this driver.",
            fatal=False,
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
