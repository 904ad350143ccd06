"""cosmocc: how it is unpacked, put behind shims and checked, tried with a stand-in of the same layout."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from mmojo_forge.fetch.archive import ExtractOptions, extract
from tests.support import standin_cosmocc
from tests.conftest import REPOSITORY
from tests.support.standin_cosmocc import ape

FOLDER = REPOSITORY / "toolchains" / "cosmocc"
CHECKS = ("archive", "drivers", "apelink", "headers", "programs", "sandbox")
REGULAR = stat.S_IFREG | 0o755


@pytest.fixture(scope="session")
def loader(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return standin_cosmocc.build_loader(zig, tmp_path_factory.mktemp("loader"))


class Standin:
    """The stand-in, unpacked and made a toolchain of, and the checks run on it."""

    def __init__(self, folder: Path, loader: bytes) -> None:
        self.folder = folder
        self.loader = loader
        self.tree = folder / "tree"
        self.place = folder / "cosmocc"

    def unpack(self, changes: dict[str, tuple[int, bytes] | None] | None = None) -> None:
        archive = self.folder / "cosmocc.zip"
        standin_cosmocc.write_archive(archive, self.loader, changes)
        self.tree.mkdir()
        extract(archive, self.tree, ExtractOptions())

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        tmp = self.folder / "tmp"
        tmp.mkdir(exist_ok=True)
        path = f"{self.place}/ape:/usr/local/bin:/usr/bin:/bin:{self.place}/bin"
        given = {"PATH": path, "TMPDIR": str(tmp), "HOME": str(tmp), "LC_ALL": "C.UTF-8", **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    def make(self) -> subprocess.CompletedProcess[str]:
        return self.run("sh", FOLDER / "scripts" / "toolchain.sh", self.tree, self.place, str(self.place))

    def check(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        place = self.tree if name in {"archive", "drivers"} else self.place
        report = self.folder / f"report-{name}"
        return self.run("sh", FOLDER / "checks" / f"{name}.sh", place, place, report, **environment)


@pytest.fixture
def standin(tmp_path: Path, loader: bytes) -> Standin:
    return Standin(tmp_path, loader)


@pytest.fixture
def toolchain(standin: Standin) -> Standin:
    standin.unpack()
    done = standin.make()
    assert done.returncode == 0, done.stderr
    return standin


def is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


# Unpacking


def test_symlinks_and_modes_come_out_of_the_zip(standin: Standin) -> None:
    standin.unpack()
    assert (standin.tree / "bin/x86_64-unknown-cosmo-cc").readlink() == Path("cosmocross")
    assert (standin.tree / "bin/aarch64-linux-cosmo-as").resolve().is_file()
    assert is_executable(standin.tree / "bin/apelink")
    assert not is_executable(standin.tree / "bin/cosmoranlib")


# Shims


def test_the_kernel_starts_no_ape_but_its_shim(toolchain: Standin) -> None:
    with pytest.raises(OSError, match="Exec format error"):
        toolchain.run(toolchain.place / "bin/apelink.real", "-v")
    assert "stand-in" in toolchain.run(toolchain.place / "bin/apelink", "-v").stdout


def test_every_ape_has_a_shim_where_it_was_and_scripts_may_be_run(toolchain: Standin) -> None:
    kept = {name for name, (_, content) in standin_cosmocc.files().items() if content.startswith(b"MZqFpD='")}
    for name in kept:
        shim = toolchain.place / name
        assert shim.read_text().splitlines()[1] == (
            f'exec {toolchain.place}/ape/ape - {toolchain.place}/{name}.real "$0" "$@"'
        )
        assert is_executable(shim)
        assert is_executable(toolchain.place / f"{name}.real")
    assert {f"{path.relative_to(toolchain.place)}" for path in toolchain.place.rglob("*.real")} == {
        f"{name}.real" for name in kept
    }
    assert is_executable(toolchain.place / "bin/cosmoranlib")
    assert (toolchain.place / "bin/ape-m1.c").read_bytes() == (toolchain.tree / "bin/ape-m1.c").read_bytes()
    assert (toolchain.place / "ape/ape").read_bytes() == toolchain.loader
    assert (toolchain.place / "include/sys/syslimits.h").read_text() == "#include <linux/limits.h>\n"


def test_a_program_behind_a_shim_has_its_arguments_and_the_name_it_was_called_by(standin: Standin) -> None:
    told = ape('printf "%s|" "$STANDIN_ARGV0" "$@"\n')
    link = (stat.S_IFLNK | 0o777, b"told")
    standin.unpack({"bin/told": (REGULAR, told), "bin/alias": link})
    assert standin.make().returncode == 0
    called = standin.place / "bin/alias"
    assert standin.run(called, "a b", "", '"').stdout == f'{called}|a b||"|'


def test_a_header_that_is_there_is_kept(standin: Standin) -> None:
    standin.unpack({"include/sys/syslimits.h": (REGULAR, b"/* own */\n")})
    assert standin.make().returncode == 0
    assert (standin.place / "include/sys/syslimits.h").read_text() == "/* own */\n"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"bin/ape-x86_64.elf": None}, "bin/ape-x86_64.elf is no ELF file"),
        ({"bin/ape-x86_64.elf": (REGULAR, b"MZqFpD='\n")}, "bin/ape-x86_64.elf is no ELF file"),
        ({"ape/ape": (REGULAR, b"")}, "an ape/ of its own"),
        (
            {
                name: (REGULAR, b"#!/bin/sh\n")
                for name, (_, content) in standin_cosmocc.files().items()
                if content.startswith(b"MZqFpD='")
            },
            "no program in bin/ or libexec/ is an APE",
        ),
    ],
    ids=["no loader", "an APE as loader", "a folder in the way", "no APE"],
)
def test_an_archive_of_another_layout_makes_no_toolchain(
    standin: Standin, changes: dict[str, tuple[int, bytes] | None], cause: str
) -> None:
    standin.unpack(changes)
    done = standin.make()
    assert done.returncode == 1
    assert cause in done.stderr


# Checks


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_finds_the_stand_in_as_expected(toolchain: Standin, name: str) -> None:
    done = toolchain.check(name)
    assert done.returncode == 0, done.stderr
    report = (toolchain.folder / f"report-{name}").read_text()
    assert report == done.stdout
    assert report.endswith(f"{name}: as expected\n")
    assert ("sys/syslimits.h: made by us" in report) == (name == "headers")


def test_the_report_of_programs_has_nothing_of_where_they_were_compiled(toolchain: Standin) -> None:
    assert toolchain.check("programs").returncode == 0
    report = toolchain.folder / "report-programs"
    first = report.read_text()
    report.unlink()
    assert toolchain.check("programs").returncode == 0
    assert report.read_text() == first
    assert str(toolchain.folder) not in first


APELINK = standin_cosmocc.files()["bin/apelink"][1]
GCC = standin_cosmocc.files()["bin/x86_64-linux-cosmo-gcc"][1]
# A compiler that puts into each program where it was run.
LEAKY = GCC.replace(b"else\n", b'else\n    echo "# $PWD" > here.o; inputs="$inputs here.o"\n')
# One whose programs crash if they call memchr with nothing.
CRASHING = GCC.replace(b"else\n", b"else\n    grep -q 'found nothing' $inputs && echo 'exit 139' | tee $inputs\n")
LINKS = [name for name, (mode, _) in standin_cosmocc.files().items() if stat.S_ISLNK(mode)]


@pytest.mark.parametrize(
    ("check", "changes", "cause"),
    [
        ("archive", dict.fromkeys(LINKS), "no symlinks"),
        ("archive", {"bin/ape-m1.c": None}, "there is no bin/ape-m1.c"),
        ("archive", {"bin/cosmoranlib": None}, "no bin/cosmoranlib"),
        ("archive", {"libexec/gcc/x86_64-linux-cosmo/14.1.0/as": None}, "lead nowhere"),
        ("archive", {"aarch64-linux-cosmo/lib/libcosmo.a": None}, "no aarch64-linux-cosmo/lib/libcosmo.a"),
        ("drivers", {"bin/cosmocross": (REGULAR, ape("exit 0\n"))}, "is no shell script"),
        ("drivers", {"bin/cosmocross": (REGULAR, b"#!/bin/sh\n")}, "does not call fixupobj"),
        ("apelink", {"bin/apelink": (REGULAR, APELINK.replace(b"-V BITS", b"-s BITS"))}, "older than cosmocc 4"),
        ("apelink", {"bin/apelink": (REGULAR, APELINK.replace(b"ape-1.10", b"ape-1.9"))}, "the loader ape-1.9"),
        ("apelink", {"bin/apelink": (REGULAR, ape("exit 3\n"))}, "exit code 3"),
        ("headers", {"include/linux/limits.h": None}, "no include/linux/limits.h"),
        ("headers", {"bin/aarch64-linux-cosmo-gcc": (REGULAR, ape("exit 1\n"))}, "aarch64 does not find all of them"),
        ("headers", {"include/third_party/libcxx/vector": None}, "the C++ library lies elsewhere"),
        (
            "programs",
            {"bin/x86_64-linux-cosmo-gcc": (REGULAR, LEAKY)},
            "hello-x86_64 differs between two folders",
        ),
        ("programs", {"bin/aarch64-linux-cosmo-g++": (REGULAR, ape("exit 1\n"))}, "does not compile for aarch64"),
        ("programs", {"bin/fixupobj": (REGULAR, ape("exit 1\n"))}, "does not compile for x86_64"),
        ("programs", {"bin/apelink": (REGULAR, ape("exit 1\n"))}, "does not join"),
        ("programs", {"bin/x86_64-linux-cosmo-gcc": (REGULAR, CRASHING)}, "memchr-x86_64 ended with exit code 139"),
        (
            "programs",
            {"bin/apelink": (REGULAR, APELINK.replace(b'header(r"\\267")', b'""'))},
            "hello.ape is for (any, x86_64, ape-1.10)",
        ),
        (
            "programs",
            {"bin/apelink": (REGULAR, APELINK.replace(b'file.write("MZqFpD', b'file.write("jartsr'))},
            "hello.ape is for (not Windows, aarch64, x86_64, ape-1.10)",
        ),
        ("programs", {"bin/x86_64-linux-cosmo-gcc": (REGULAR, GCC.replace(b"puts(", b"nothing("))}, "said ''"),
    ],
)  # fmt: skip
def test_a_check_names_what_is_not_as_expected(
    standin: Standin, check: str, changes: dict[str, tuple[int, bytes] | None], cause: str
) -> None:
    standin.unpack(changes)
    assert standin.make().returncode == 0
    done = standin.check(check)
    assert done.returncode == 1
    assert f"cosmocc check {check}: not as expected: " in done.stderr
    assert cause in done.stderr


def test_the_sandbox_is_not_as_expected_without_the_loader_in_path(toolchain: Standin) -> None:
    done = toolchain.check("sandbox", PATH="/usr/bin:/bin")
    assert done.returncode == 1
    assert "the first `ape` in PATH is none" in done.stderr
    assert "a loader was unpacked into" in done.stderr


def test_the_sandbox_is_not_as_expected_where_tmpdir_has_a_space(toolchain: Standin) -> None:
    folder = toolchain.folder / "a space"
    folder.mkdir()
    done = toolchain.check("sandbox", TMPDIR=str(folder))
    assert done.returncode == 1
    assert "TMPDIR has a space" in done.stderr
