"""build-info.json: found beside a program, above its bin folder, and inside an APE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmojo_forge.engine.package.build_info import NAME, read_build_info, summarise

INFO = {
    "llama.cpp": {"version": "1.0", "build": 7, "commit": "abc"},
    "compiler": {"name": "gcc", "version": "12", "target": "x", "cpu": "-mavx"},
    "cpu": {"requires": ["avx"]},
    "blas": None,
    "openmp": True,
    "threads": 4,
    "reasons": ["compiled for this machine's cpu.features"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "program").write_bytes(b"\x7fELF")
    (tmp_path / NAME).write_text(json.dumps(INFO))
    return tmp_path


@pytest.mark.parametrize("where", ["", "bin/program"])
def test_it_is_found_from_the_folder_and_from_the_program(tree: Path, where: str) -> None:
    assert read_build_info(tree / where) == INFO


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_file_that_is_something_else_is_nothing(tree: Path, content: str) -> None:
    (tree / NAME).write_text(content)
    assert read_build_info(tree) is None


def test_where_there_is_none_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert read_build_info(tmp_path / "file") is None
    assert read_build_info(tmp_path / "missing") is None


def test_a_file_that_only_looks_like_an_ape_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "ape").write_bytes(b"MZqFpD='\n" + bytes(100))
    assert read_build_info(tmp_path / "ape") is None


def test_the_summary_says_compiler_cpu_threads_and_why_it_is_not_portable() -> None:
    lines = dict(summarise(INFO))
    assert lines["llama.cpp"] == "1.0 build 7 (abc)"
    assert lines["cpu"] == "-mavx needs avx"
    assert lines["blas"] == "none, OpenMP"
    assert lines["threads"] == "suggested: 4"
    assert lines["not portable"] == "compiled for this machine's cpu.features"


def test_a_summary_of_several_slices_has_a_line_for_each() -> None:
    lines = list(summarise({"slices": {"a": INFO, "b": INFO}}))
    assert [text.partition(":")[0] for name, text in lines if name == "slice"] == ["a", "b"]
