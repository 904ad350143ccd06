"""A stand-in for NVIDIA's driver: it knows CUDA 13.0, has every function that a module may call, and no device."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

NAME = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_SOURCE = f"""
int cuInit(unsigned flags) {{ (void) flags; return {_NO_DEVICE}; }}
int cuDriverGetVersion(int *version) {{ *version = 13000; return 0; }}
"""


def make_driver(folder: Path, library: Path) -> Path:
    """Write one for the module `library` into `folder`; needs `cc`."""
    calls = re.findall(rb"\0(cu[A-Z][A-Za-z]+)(?=\0)", library.read_bytes())
    names = {name.decode() for name in calls} - {"cuInit", "cuDriverGetVersion"}
    source = folder / "driver.c"
    source.write_text(_SOURCE + "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in sorted(names)))
    command: list[str | Path] = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{NAME}", source, "-o", folder / NAME]
    subprocess.run(command, check=True)
    return folder / NAME
