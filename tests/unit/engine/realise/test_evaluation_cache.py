"""The evaluation cache is believed only while every file it rests on is as it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmojo_forge.engine.realise import evaluation_cache
from mmojo_forge.engine.realise.evaluation_cache import CachedTarget

ROW: CachedTarget = ("a.b", "d" * 64, "out", "a-b")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was written long enough ago."""
    path = tmp_path / "recipe.py"
    path.write_text("one")
    os.utime(path, ns=(1, 1_000_000_000))
    return path


def write(tmp_path: Path, file: Path, began: int | None = None) -> None:
    absent = [str(tmp_path / "absent")]
    began = time.time_ns() if began is None else began
    evaluation_cache.write(str(tmp_path / "cache"), "/w", ["a.b"], [str(file)], absent, [ROW], began=began)


def read(tmp_path: Path, workspace: str = "/w", targets: list[str] | None = None) -> list[CachedTarget] | None:
    return evaluation_cache.read(str(tmp_path / "cache"), workspace, targets or ["a.b"])


def test_what_was_written_is_read_back(tmp_path: Path, file: Path) -> None:
    write(tmp_path, file)
    assert read(tmp_path) == [ROW]


def test_another_request_or_workspace_is_not_answered(tmp_path: Path, file: Path) -> None:
    write(tmp_path, file)
    assert read(tmp_path, workspace="/other") is None
    assert read(tmp_path, targets=["a.b", "c"]) is None


@pytest.mark.parametrize("change", ["content", "time", "replaced", "gone"])
def test_a_changed_file_makes_it_void(tmp_path: Path, file: Path, change: str) -> None:
    write(tmp_path, file)
    if change == "content":
        file.write_text("longer")
        os.utime(file, ns=(1, 1_000_000_000))
    elif change == "time":
        os.utime(file, ns=(1, 1_000_000_001))
    elif change == "replaced":
        other = tmp_path / "other"
        other.write_text("two")
        os.utime(other, ns=(1, 1_000_000_000))
        other.replace(file)
    else:
        file.unlink()
    assert read(tmp_path) is None


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_there_now_makes_it_void(tmp_path: Path, file: Path, link: bool) -> None:
    write(tmp_path, file)
    assert read(tmp_path) == [ROW]
    if link:
        (tmp_path / "absent").symlink_to("nowhere")
    else:
        (tmp_path / "absent").touch()
    assert read(tmp_path) is None


def test_a_file_that_came_during_the_build_prevents_an_entry(tmp_path: Path, file: Path) -> None:
    (tmp_path / "absent").touch()
    write(tmp_path, file)
    (tmp_path / "absent").unlink()
    assert read(tmp_path) is None


def test_a_file_changed_during_the_build_prevents_an_entry(tmp_path: Path, file: Path) -> None:
    """What was read is not what is there now, however long ago it was changed when the entry is written."""
    write(tmp_path, file, began=500_000_000)
    assert read(tmp_path) is None
    write(tmp_path, file, began=2_000_000_000)
    assert read(tmp_path) == [ROW]


def test_a_file_changed_just_now_is_not_trusted(tmp_path: Path, file: Path) -> None:
    """A second change within the clock's grain would leave the same time stamp."""
    file.write_text("two")
    write(tmp_path, file)
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "forge-evaluation 1\n", "forge-evaluation 2\nend\n", "forge-evaluation 1\nrequest\t/w\ta.b\nend"]
)
def test_a_damaged_entry_is_a_miss(tmp_path: Path, file: Path, text: str) -> None:
    write(tmp_path, file)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_text(text)
    assert read(tmp_path) is None
