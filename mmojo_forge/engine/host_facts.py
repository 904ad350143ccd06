"""Facts of this machine, for recipes that take a `host` parameter and are labelled with what they read."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path


def read() -> dict[str, str]:
    """Fact values by name: `os`, `machine`, `libc`, `cpu.model` and `cpu.flags` (space-separated, sorted)."""
    return dict(_facts())


def _facts() -> Iterator[tuple[str, str]]:
    yield "os", platform.system().lower()
    yield "machine", platform.machine()
    libc, version = platform.libc_ver()
    yield "libc", f"{libc or 'unknown'} {version}".strip()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    first = dict(_fields(text.partition("\n\n")[0]))
    if "model name" in first:
        yield "cpu.model", first["model name"]
    flags = first.get("flags") or first.get("Features")
    if flags:
        yield "cpu.flags", " ".join(sorted(flags.split()))


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()
