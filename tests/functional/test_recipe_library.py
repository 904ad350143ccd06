"""Packages of others, built with what recipes share in recipes/lib: they work, and their bills say what is in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, realize

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    return dict(zip(("zlib", "sqlite", "jq"), realize("zlib", "sqlite", "jq"), strict=True))


def output_of(*command: str | Path, given: str = "") -> str:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60).stdout


def test_sqlite_answers_a_query(packages: dict[str, Path]) -> None:
    query = "select sqlite_version(), json_extract('{\"a\": 7}', '$.a')"
    assert output_of(packages["sqlite"] / "bin" / "sqlite3", ":memory:", query) == "3.44.2|7\n"


def test_jq_knows_regular_expressions(packages: dict[str, Path]) -> None:
    text = json.dumps({"names": ["ape", "bee"]})
    assert output_of(packages["jq"] / "bin" / "jq", "-c", '[.names[] | test("^a")]', given=text) == "[true,false]\n"


def test_what_is_installed_is_what_others_need(packages: dict[str, Path]) -> None:
    files = {
        name: sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for name, folder in packages.items()
    }
    assert files["zlib"] == ["include/zconf.h", "include/zlib.h", "lib/libz.a", "lib/pkgconfig/zlib.pc"]
    assert files["jq"] == ["bin/jq"]
    assert "prefix=${pcfiledir}/../..\n" in (packages["zlib"] / "lib" / "pkgconfig" / "zlib.pc").read_text()


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("zlib", {"zlib"}),
        ("jq", {"jq", "oniguruma", "musl", "compiler-rt"}),
        ("sqlite", {"sqlite", "musl", "compiler-rt"}),
    ],
)
def test_a_bill_has_what_zig_links_into_programs(target: str, names: set[str]) -> None:
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "sbom", "--strict", target]
    bill = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY).stdout)
    assert {part["name"] for part in bill["components"] if part["type"] == "library"} == names
