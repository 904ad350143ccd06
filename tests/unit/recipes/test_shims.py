"""The scripts in recipes/lib/shims: zig's tools, called as build systems call those of gcc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SHIMS = Path(__file__).resolve().parents[3] / "recipes" / "lib" / "shims"


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """Copies that start a program which prints its arguments, one a line."""
    zig = tmp_path / "zig"
    zig.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    zig.chmod(0o755)
    for script in SHIMS.iterdir():
        copy = tmp_path / script.name
        copy.write_text(script.read_text().replace("/forge/zig/zig", str(zig)).replace("/forge/shims", str(tmp_path)))
        copy.chmod(0o755)
    return tmp_path


def arguments(shims: Path, tool: str, *words: str, target: str = "x86_64-linux-musl") -> list[str]:
    environment = {"PATH": "/usr/bin:/bin", "ZIG_TARGET": target, "ZIG_CPU": "x86_64"}
    command = [str(shims / tool), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("tool", ["cc", "c++"])
def test_a_compiler_is_told_the_target_first_and_to_leave_out_symbols_last(shims: Path, tool: str) -> None:
    told = arguments(shims, tool, "-g", "-c", "a b.c")
    assert told[:4] == [tool, "-target", "x86_64-linux-musl", "-mcpu=x86_64"]
    assert told[-5:] == ["-g", "-c", "a b.c", "-g0", "-s"]


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (("-c", "src/a.c"), ["-o", "a.o"]),
        (("-c", "src/a.b.cpp"), ["-o", "a.b.o"]),
        (("-c", "a.c", "-o", "b.o"), []),
        (("-c", "a.c", "-ob.o"), []),
        (("-c", "a.c", "b.c"), []),
        (("a.c",), []),
    ],
)
def test_an_object_for_windows_is_called_as_makefiles_expect(
    shims: Path, words: tuple[str, ...], added: list[str]
) -> None:
    told = arguments(shims, "cc", *words, target="x86_64-windows-gnu")
    assert told[-2 - len(added) - len(words) : -2] == [*words, *added]
    assert arguments(shims, "cc", *words)[-2 - len(words) : -2] == [*words]


def test_thin_archives_become_ordinary_ones(shims: Path) -> None:
    assert arguments(shims, "ar", "csrDT", "libT.a", "T.o") == ["ar", "csrD", "libT.a", "T.o"]
    assert arguments(shims, "ar", "rcs", "libT.a") == ["ar", "rcs", "libT.a"]
    assert arguments(shims, "ar", "--version") == ["ar", "--version"]


def test_strip_leaves_alone_what_has_nothing_to_strip(shims: Path) -> None:
    assert arguments(shims, "strip", "program") == []
