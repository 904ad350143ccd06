"""Can this machine build and run what forge makes, and if not, which command mends it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.executor import availability, personality

ENOUGH_BYTES = 12_000_000_000
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_NVIDIA = Path("/sys/module/nvidia/version")
_CUDA_DRIVER = 580
"""The first driver of CUDA 13.0, by which `ggml-cuda` is built (NVIDIA, "CUDA Toolkit 13.0 Release Notes")."""
_DRIVER_VERSION = re.compile(r"(\d+)(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing that was looked at. `reason` is empty where all is well; `detail` then is empty too."""

    subject: str
    state: str
    reason: str = ""
    detail: str = ""
    fatal: bool = True

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return not self.reason


def examine(store: Path, binfmt: Path = _BINFMT, nvidia: Path = _NVIDIA) -> list[DoctorFinding]:
    """Everything that is looked at, in the order a build would meet it, then what its results need. Changes nothing."""
    return [_python(), *_sandbox(), *_addresses(), *_disk(store), *_binfmt(binfmt), *_nvidia(nvidia)]


def _python() -> DoctorFinding:
    return DoctorFinding("python", ".".join(map(str, sys.version_info[:3])))


def _sandbox() -> Iterator[DoctorFinding]:
    for finding in availability.probe():
        yield DoctorFinding(finding.subject, finding.state, finding.reason, finding.detail)


def _addresses() -> Iterator[DoctorFinding]:
    """Said only where it is not well: nearly everything can do without."""
    with personality.taken_on(personality.USUAL) as why:
        if why:
            yield DoctorFinding(
                "memory layout",
                f"builds cannot have a fixed one: {why}",
                "addresses-not-fixed",
                "A container's system call filter forbids personality(2). Compilers that sort by address, as NVIDIA's\n"
                "does, make other code each time, so ggml-cuda cannot be built. Docker and Podman allow it with\n"
                "--security-opt seccomp=unconfined.",
                fatal=False,
            )


def _disk(store: Path) -> Iterator[DoctorFinding]:
    folder = next(parent for parent in (store, *store.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        yield DoctorFinding(
            "store", f"{store} cannot be written to", "store-permission", "Set FORGE_STORE to a folder of yours."
        )
        return
    free = shutil.disk_usage(folder).free
    state = f"{store}, {free / 1e9:.0f} GB free"
    if free < ENOUGH_BYTES:
        yield DoctorFinding(
            "store",
            state,
            "little-space",
            f"Building mmojo-server.ape takes up to {ENOUGH_BYTES / 1e9:.0f} GB; set FORGE_STORE to a larger disk.",
            fatal=False,
        )
    else:
        yield DoctorFinding("store", state)


def _binfmt(folder: Path) -> Iterator[DoctorFinding]:
    """Handlers that take every file which starts with MZ, and so an APE too, before its own launcher is asked."""
    for entry in sorted(folder.glob("*")) if folder.is_dir() else ():
        text = _read(entry)
        if not text.startswith("enabled") or "magic 4d5a\n" not in text + "\n":
            continue
        yield DoctorFinding(
            "binfmt_misc",
            f"{entry.name} takes every file that starts with MZ",
            "binfmt-takes-mz",
            f"An APE started directly goes to {entry.name}. Start it with `sh FILE`, make a native copy with\n"
            f"`sh FILE --assimilate`, or turn the handler off: echo 0 | sudo tee {entry}",
            fatal=False,
        )


def _nvidia(version: Path) -> Iterator[DoctorFinding]:
    """Said only where there is such a driver: nobody needs one."""
    if found := _DRIVER_VERSION.fullmatch(_read(version).strip()):
        state = f"driver {found[0]}"
        if int(found[1]) >= _CUDA_DRIVER:
            yield DoctorFinding("nvidia", state)
            return
        yield DoctorFinding(
            "nvidia",
            state,
            "driver-too-old",
            f"ggml-cuda needs driver {_CUDA_DRIVER} or later, and does nothing with an older one: the CPU computes.\n"
            "ggml-vulkan may do with it.",
            fatal=False,
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
