"""What `forge doctor` sees of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmojo_forge.engine.query.doctor import examine
from mmojo_forge.executor import personality

TAKES_MZ = "enabled\ninterpreter /usr/bin/wine\nflags: \noffset 0\nmagic 4d5a\n"


@pytest.mark.parametrize(
    ("entry", "reasons"),
    [
        (TAKES_MZ, ["binfmt-takes-mz"]),
        (TAKES_MZ.replace("enabled", "disabled"), []),
        (TAKES_MZ.replace("4d5a", "7f454c46"), []),
        (TAKES_MZ.replace("4d5a", "4d5a714670443d27"), []),
    ],
    ids=["takes every MZ file", "turned off", "another magic", "APE's own"],
)
def test_a_handler_that_takes_every_mz_file_is_told(tmp_path: Path, entry: str, reasons: list[str]) -> None:
    (tmp_path / "wine").write_text(entry)
    findings = [finding for finding in examine(tmp_path, tmp_path) if finding.subject == "binfmt_misc"]
    assert [finding.reason for finding in findings] == reasons
    assert not any(finding.fatal for finding in findings)


class Refuses:
    """libc where a filter forbids personality(2)."""

    def personality(self, _: object) -> int:
        return -1


def test_a_machine_where_memory_cannot_lie_still_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personality, "_LIBC", Refuses())
    (finding,) = [finding for finding in examine(tmp_path, tmp_path) if finding.subject == "memory layout"]
    assert (finding.reason, finding.fatal) == ("addresses-not-fixed", False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("580.65.06\n", [("driver 580.65.06", "")]),
        ("595.10\n", [("driver 595.10", "")]),
        ("570.133.20\n", [("driver 570.133.20", "driver-too-old")]),
        ("99.1\n", [("driver 99.1", "driver-too-old")]),
        ("", []),
        ("something else\n", []),
    ],
)
def test_a_driver_that_is_too_old_for_the_cuda_module_is_told(
    tmp_path: Path, text: str, told: list[tuple[str, str]]
) -> None:
    (tmp_path / "version").write_text(text)
    findings = examine(tmp_path, tmp_path, tmp_path / "version")
    found = [(finding.state, finding.reason) for finding in findings if finding.subject == "nvidia"]
    assert found == told


def test_without_a_driver_nothing_is_said_of_one(tmp_path: Path) -> None:
    assert "nvidia" not in {finding.subject for finding in examine(tmp_path, tmp_path, tmp_path / "none")}
