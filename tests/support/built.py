"""Targets that lie in the store already: tests that need llama.cpp take them from there, and build nothing.

A test whose target is not built is skipped, unless somebody promised it: FORGE_TEST_NEEDS names the targets that CI has
built, and `./check --slow` promises all of them. Then it fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def built(target: str, variable: str = "", **options: str) -> Path:
    """Where `target` lies, or what the environment variable names; skips the test, or fails it, if there is neither."""
    found = find(target, variable, **options)
    if found is None:
        # Only tests have it; `python -m bench` uses the other functions without.
        import pytest

        which = " ".join([target, *settings(options)])
        text = f"{which} is not built" + (f", and {variable} is not set" if variable else "")
        if os.environ.get("FORGE_TEST_SLOW") or which in os.environ.get("FORGE_TEST_NEEDS", "").split():
            pytest.fail(text)
        pytest.skip(text)
    return found


def find(target: str, variable: str = "", **options: str) -> Path | None:
    """The same, but None if there is neither."""
    if chosen := os.environ.get(variable):
        return Path(chosen)
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "store", "path", target, *settings(options)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def settings(options: Mapping[str, str]) -> list[str]:
    """The words of a command that set options of its targets."""
    return [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


def server_program() -> Path:
    """The native server for any x86-64 Linux of the last ten years, with its pages."""
    program = built("mmojo-server.linux-x86_64-v3", "FORGE_TEST_SERVER")
    return program / "bin" / "mmojo-server" if program.is_dir() else program


def tiny_model() -> Path:
    """A GGUF file of random weights that loads in a moment."""
    return built("bench-model.tiny", "FORGE_TEST_MODEL")
