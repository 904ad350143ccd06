"""The Cosmopolitan road: what a user gets without cosmocc, and all of it with a stand-in for cosmocc."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.lockfile import Lock
from tests.conftest import REPOSITORY, realize
from tests.functional.conftest import Forge
from tests.support import standin_cosmocc
from tests.support.standin_cosmocc.recipes import write_recipes

pytestmark = pytest.mark.toolchain

REAL = (
    "toolchains/cosmocc",
    "toolchains/userland",
    "recipes/openssl-cosmo",
    "recipes/mmojo-server-cosmo",
    "recipes/lib",
)
HOSTS = {
    "https://github.com/jart/cosmopolitan/releases/download": "https://127.0.0.1:9/first",
    "https://cosmo.zip/pub": "https://127.0.0.1:9/second",
}
ARCHIVE = "cosmocc-4.0.2.zip"


@pytest.fixture(scope="module")
def archive(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of its own for each run: the store, which outlives it, knows what was brought."""
    folder = tmp_path_factory.mktemp("standin")
    readme = (stat.S_IFREG | 0o444, uuid4().hex.encode())
    standin_cosmocc.write_archive(folder / ARCHIVE, standin_cosmocc.build_loader(zig, folder), {"README.md": readme})
    return folder / ARCHIVE


@pytest.fixture(scope="module")
def forge(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """Our own recipes, which take the stand-in for cosmocc, and stand-ins for what else they need. The store is that of
    all tests, which has the userland."""
    root = tmp_path_factory.mktemp("workspace")
    write_recipes(root)
    for folder in REAL:
        shutil.copytree(REPOSITORY / folder, root / folder)
    recipe = root / "toolchains" / "cosmocc" / "recipe.py"
    text = recipe.read_text()
    content = archive.read_bytes()
    changes = {
        **HOSTS,
        "85b8c37a406d862e656ad4ec14be9f6ce474c1b436b9615e91a55208aced3f44": hashlib.sha256(content).hexdigest(),
        "441_763_966": str(len(content)),
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    recipe.write_text(text)
    lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
    (root / "forge.lock").write_text(Lock(userlands={"base": lock.userlands["base"]}).dump())
    (root / "home").mkdir()
    store = os.environ.get("FORGE_STORE", str(REPOSITORY / "store"))
    return Forge(root, {"FORGE_STORE": store})


def brought(forge: Forge, archive: Path) -> None:
    forge.run("lock")
    forge.run("store", "add-source", str(archive))


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    """The file with something else in it for a while."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)


# Without cosmocc


def test_without_the_zip_the_server_ends_with_what_to_do(forge: Forge) -> None:
    forge.run("lock")
    pin = Workspace.find(forge.root).read_lock().sources[ARCHIVE]
    assert not pin.measured
    done = forge.run("realize", "mmojo-server-cosmo.ape", expect=3)
    for words in (ARCHIVE, *HOSTS.values(), pin.sha256, f"forge store add-source {ARCHIVE}"):
        assert words in done.stderr
    assert forge.error("realize", "mmojo-server-cosmo.ape", expect=3)["reason"] == "network-unreachable"


def test_our_own_lock_pins_cosmocc_by_its_sha256_and_two_places() -> None:
    pin = Lock.parse((REPOSITORY / "forge.lock").read_text()).sources[ARCHIVE]
    assert (pin.sha256, pin.size) == ("85b8c37a406d862e656ad4ec14be9f6ce474c1b436b9615e91a55208aced3f44", 441_763_966)
    assert pin.locator.removeprefix("url:") == f"{next(iter(HOSTS))}/4.0.2/{ARCHIVE}"
    assert pin.mirrors == (f"https://cosmo.zip/pub/cosmocc/{ARCHIVE}",)


def test_another_version_is_refused_and_names_what_is_expected(forge: Forge, tmp_path: Path) -> None:
    other = tmp_path / "cosmocc-3.9.7.zip"
    other.write_bytes(b"PK another version")
    forge.run("lock")
    error = forge.error("store", "add-source", str(other))
    assert error["reason"] == "source-mismatch"
    assert ARCHIVE in error["message"]


# With the stand-in


def test_a_zip_that_is_brought_gets_its_blake3_and_is_used(forge: Forge, archive: Path) -> None:
    brought(forge, archive)
    assert Workspace.find(forge.root).read_lock().sources[ARCHIVE].measured
    forge.run("lock", "--check")
    [report] = forge.realize("cosmocc.checks")
    said = report.read_text()
    for check in ("archive", "drivers", "apelink", "headers", "programs", "sandbox"):
        assert f"{check}: as expected" in said


@pytest.mark.parametrize(
    ("target", "marches"),
    [
        ("mmojo-server-cosmo.ape", ("x86-64", "armv8-a")),
        ("mmojo-server-cosmo.performant", ("x86-64-v3", "armv8.2-a+dotprod+fp16")),
    ],
)
def test_the_server_is_compiled_and_joined_by_these_command_lines(
    forge: Forge, archive: Path, target: str, marches: tuple[str, str]
) -> None:
    brought(forge, archive)
    [server] = forge.realize(target)
    with zipfile.ZipFile(server) as inside:
        assert inside.read("ui/chat/index.html") == b"<p>chat</p>\n"
        assert inside.read("ui/complete/index.html") == b"<p>complete</p>\n"
        assert inside.read("usr/share/zoneinfo/UTC") == b"TZif"
        joined = inside.read("apelink-arguments").decode()
    tools = "/forge/cosmocc/bin"
    assert joined == (
        f"-o /forge/out/out -l {tools}/ape-x86_64.elf -l {tools}/ape-aarch64.elf -M {tools}/ape-m1.c "
        "/forge/x86_64/bin/mmojo-server /forge/aarch64/bin/mmojo-server"
    )
    suffix = "" if target.endswith(".ape") else "-performant"
    for arch, march in zip(("x86_64", "aarch64"), marches, strict=True):
        [program] = forge.realize(f"mmojo-server-cosmo.{arch}{suffix}")
        lines = (program / "bin" / "mmojo-server").read_text().splitlines()
        assert "# ninja llama-server" in lines
        arguments = {line.removeprefix("# cmake ") for line in lines if line.startswith("# cmake ")}
        assert f"-DCMAKE_C_COMPILER={tools}/{arch}-unknown-cosmo-cc" in arguments
        assert f"-DCMAKE_SYSTEM_PROCESSOR={arch}" in arguments
        [flags] = [one for one in arguments if one.startswith("-DCMAKE_CXX_FLAGS=")]
        assert flags.startswith(f"-DCMAKE_CXX_FLAGS=-march={march} -fexceptions -frtti ")
        [configured] = [line for line in lines if line.startswith('echo "libcrypto: ')]
        assert f"linux-{arch}" in configured
        assert "no-asm" in configured


def test_our_own_packaging_leaves_what_was_joined_able_to_start(forge: Forge, archive: Path) -> None:
    brought(forge, archive)
    [server] = forge.realize("mmojo-server-cosmo.ape")
    environment = {"PATH": "/usr/bin:/bin", "STANDIN_LOADED": "1"}  # as if by a loader
    done = subprocess.run(["sh", server], env=environment, capture_output=True, check=False)
    assert done.stdout.splitlines()[0] == b"the stand-in of a server"


def test_the_server_is_started_and_asked_in_the_sandbox(forge: Forge, archive: Path) -> None:
    brought(forge, archive)
    [report] = forge.realize("mmojo-server-cosmo.smoke")
    assert report.read_text().splitlines()[-1] == "/v1/chat/completions: 200"


def test_a_zip_in_which_something_is_not_as_expected_stops_before_the_server(
    forge: Forge, archive: Path, tmp_path: Path
) -> None:
    """The same toolchain with another expectation: the node of the check fails, and nothing above it is tried."""
    brought(forge, archive)
    check = forge.root / "toolchains" / "cosmocc" / "checks" / "headers.sh"
    with changed(check, "unistd.h", "unistd.h missing.h"):
        done = forge.run("realize", "mmojo-server-cosmo.ape", expect=1)
    assert "cosmocc-check-headers" in done.stderr
    assert "not as expected: there is no include/missing.h" in done.stderr
    begun = [line for line in done.stderr.splitlines() if line.startswith("build ")]
    assert "build cosmocc-check-headers" in begun
    assert not [line for line in begun if "openssl-cosmo" in line or "mmojo-server-cosmo" in line]


def test_a_server_that_answers_with_http_400_is_not_handed_out(forge: Forge, archive: Path) -> None:
    brought(forge, archive)
    with changed(forge.root / "toolchains" / "ninja" / "recipe.py", "self.do_GET()", "self.send_error(400)"):
        done = forge.run("realize", "mmojo-server-cosmo.ape", expect=1)
    assert "every question got HTTP 400" in done.stderr
    assert "build mmojo-server-cosmo-compatible.ape" not in done.stderr.splitlines()


def test_the_patches_for_cosmopolitan_apply_to_the_real_source() -> None:
    [source] = realize("llama-cpp-cosmo")
    container = (source / "ggml" / "src" / "mmojo-container.cpp").read_text()
    assert "GetProgramExecutableName" in container
    for file in (source / "tools" / "server").glob("server-*.[ch]*"):
        assert ".defer(" not in file.read_text(), file.name
