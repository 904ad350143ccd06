"""`forge sbom`: a bill of a toy workspace, and of our own targets with the texts of real sources."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, realize
from tests.functional.conftest import Forge

TOY = """
from mmojo_forge.recipe import Component

@recipe("toy")
def toy(*, word: str = "hello") -> Spec:
    spec = sh("toy", f"echo {word} > /forge/out/out", inputs={"source": Files("main.c")})
    return spec.made_of(Component("toy", licence="MIT", of="source")).containing("source")

@recipe("toy.silent")
def silent() -> Spec:
    return sh("silent", "echo > /forge/out/out")

@recipe("toy.unlicensed")
def unlicensed() -> Spec:
    return sh("unlicensed", "cat /forge/busybox/bin/busybox > /forge/out/out").containing("busybox")
"""


@pytest.fixture
def toy(forge: Forge) -> Forge:
    forge.recipe("toy", TOY).with_name("main.c").write_text("int main() { return 0; }")
    return forge


def document(forge: Forge, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(forge.run("sbom", *arguments).stdout)
    return found


def test_a_bill_has_the_result_what_is_in_it_and_what_it_was_built_with(toy: Forge) -> None:
    [path] = toy.realize("toy")
    bill = document(toy, "toy")
    root = bill["metadata"]["component"]
    hashes = {row["alg"]: row["content"] for row in root["hashes"]}
    assert hashes["SHA-256"] == subprocess.check_output(["sha256sum", path], text=True).split()[0]
    assert [row["name"] for row in bill["components"]] == ["toy"]
    [busybox] = bill["formulation"][0]["components"]
    assert busybox["purl"].startswith("pkg:deb/debian/busybox-static@")
    assert {row["alg"] for row in busybox["hashes"]} == {"SHA-256", "BLAKE3"}


def test_it_is_the_same_each_time_and_wherever_it_goes(toy: Forge) -> None:
    toy.realize("toy")
    first = toy.run("sbom", "toy").stdout
    toy.run("sbom", "toy", "-o", "out/toy.cdx.json")
    assert (toy.root / "out/toy.cdx.json").read_text() == first
    toy.environment["SOURCE_DATE_EPOCH"] = "86400"
    assert document(toy, "toy")["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    toy.environment["SOURCE_DATE_EPOCH"] = "yesterday"
    assert "SOURCE_DATE_EPOCH" in toy.run("sbom", "toy", expect=2).stderr


def test_spdx_and_a_table_tell_the_same(toy: Forge) -> None:
    toy.realize("toy")
    packages = document(toy, "toy", "--format", "spdx")["packages"]
    assert sorted(row["name"] for row in packages) == ["busybox-static", "toy", "toy"]
    assert toy.run("sbom", "toy", "--table").stdout == "toy\t\tMIT\tin it\t\n"
    rows = json.loads(toy.run("sbom", "toy", "--table", "--all", "--json").stdout)["components"]
    assert [(row["component"], row["role"]) for row in rows] == [("toy", "in it"), ("busybox-static", "built with")]


def test_what_is_not_built_has_no_hashes_and_that_is_said(toy: Forge) -> None:
    done = toy.run("sbom", "toy")
    assert "not built" in done.stderr
    assert "hashes" not in json.loads(done.stdout)["metadata"]["component"]


@pytest.mark.parametrize(
    ("target", "reason"), [("silent", "contents-undeclared"), ("unlicensed", "licence-undeclared")]
)
def test_strict_refuses_gaps(toy: Forge, target: str, reason: str) -> None:
    toy.run("sbom", f"toy.{target}")
    assert toy.error("sbom", "--strict", f"toy.{target}")["reason"] == reason
    toy.run("sbom", "--strict", "toy")


def test_a_document_that_cannot_be_written_leaves_the_old_one(toy: Forge) -> None:
    blocked = toy.root / "blocked"
    blocked.write_text("old")
    assert toy.error("sbom", "toy", "-o", "blocked/toy.json", expect=3)["reason"] == "document-unwritable"
    assert blocked.read_text() == "old"
    toy.run("sbom", "--table", "-o", "x", "toy", expect=2)


# Our own targets


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmojo_forge", "-C", str(REPOSITORY), "sbom", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def sbom(*arguments: str) -> str:
    done = asked(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hello_tells_which_parts_of_zig_it_has() -> None:
    names = [row["name"] for row in json.loads(sbom("--strict", "hello"))["components"]]
    assert names == ["compiler-rt", "hello", "libc++", "libc++abi", "libunwind", "musl"]


def test_the_server_is_strictly_declared_and_its_notices_are_all_there_are() -> None:
    """Of everything in it, though it need not be built for that."""
    bill = json.loads(sbom("--strict", "mmojo-server.ape"))
    assert {"llama.cpp", "cpp-httplib", "musl", "mingw-w64"} <= {row["name"] for row in bill["components"]}
    # These two ship no text of their licence.
    missing = asked("--strict", "--notices", "mmojo-server.ape")
    assert missing.returncode == 2
    assert "no licence text for rehype-katex 7.0.1, remark-math 6.0.0\n" in missing.stderr
    notices = sbom("--notices", "mmojo-server.ape")
    for holder in (
        "The ggml authors",
        "yhirose",
        "Niels Lohmann",
        "Sean Barrett",
        "Yann Collet",
        "Rich Felker",
        "LLVM",
    ):
        assert holder in notices, holder


# Where each version that recipes declare stands in the source itself.
VERSIONS = {
    "cpp-httplib": ("vendor/cpp-httplib/httplib.h", r'CPPHTTPLIB_VERSION "([\d.]+)"'),
    "nlohmann-json": ("vendor/nlohmann/json.hpp", r"version ([\d.]+)"),
    "stb_image": ("vendor/stb/stb_image.h", r"stb_image - v([\d.]+)"),
    "miniaudio": ("vendor/miniaudio/miniaudio.h", r"miniaudio - v([\d.]+)"),
    "musl": ("lib/libc/musl/src/internal/version.h", r'VERSION "([\d.]+)"'),
}


def test_versions_of_vendored_parts_are_those_in_the_sources() -> None:
    """A newer llama.cpp or zig brings newer parts, of which a recipe would still tell the old version."""
    trees = realize("llama-cpp", "zig")
    declared = {
        row["name"]: row["version"]
        for target in ("llama-cpp", "zig")
        for row in json.loads(sbom(target))["components"]
        if row.get("version")
    }
    for name, (path, pattern) in VERSIONS.items():
        [file] = [tree / path for tree in trees if (tree / path).is_file()]
        match = re.search(pattern, file.read_text(errors="replace"))
        assert match, name
        assert declared[name] == match[1], name
    for name, numbers in (("xxHash", xxhash(trees)), ("libc++", libcxx(trees)), ("mingw-w64", mingw(trees))):
        assert declared[name] == numbers, name


def defines(trees: list[Path], path: str, *names: str) -> str:
    [text] = [(tree / path).read_text(errors="replace") for tree in trees if (tree / path).is_file()]
    found = [re.search(rf"define\s+{name}\s+(\d+)", text) for name in names]
    return ".".join(match[1] for match in found if match)


def xxhash(trees: list[Path]) -> str:
    names = (f"XXH_VERSION_{part}" for part in ("MAJOR", "MINOR", "RELEASE"))
    return defines(trees, "vendor/hash/xxhash/xxhash.h", *names)


def mingw(trees: list[Path]) -> str:
    names = (f"__MINGW64_VERSION_{part}" for part in ("MAJOR", "MINOR", "BUGFIX"))
    return defines(trees, "lib/libc/include/any-windows-any/_mingw_mac.h", *names)


def libcxx(trees: list[Path]) -> str:
    number = int(defines(trees, "lib/libcxx/include/__config", "_LIBCPP_VERSION"))
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
