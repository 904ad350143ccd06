"""One APE, started by every shell, by the kernel, by an APE loader, under qemu-user: it does what its slice does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.edit import assimilate
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import LinkSpec
from tests.support.ape_programs import HERE, LAUNCHER, Compiler, build_order

SHELLS = {"dash": ["dash"], "bash": ["bash"], "zsh": ["zsh"], "busybox": ["busybox", "sh"], "sh": ["sh"]}
LAUNCHER_START: list[str] = []
NOBODY = 65534


@pytest.fixture(scope="session")
def compiler(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(zig, tmp_path_factory.getbasetemp() / "zig-cache")


@pytest.fixture(scope="session")
def order(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> LinkSpec:
    return build_order(compiler, tmp_path_factory.getbasetemp() / "ape-build")


@pytest.fixture(scope="session")
def ape(order: LinkSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link(order, tmp_path_factory.mktemp("ape") / "hello.ape").path


@pytest.fixture(scope="session")
def native(ape: Path) -> Path:
    return assimilate(ape, "linux-x86_64", ape.with_name("hello.elf")).path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def started(
    command: Sequence[str | Path], home: Path | None, environment: Mapping[str, str] | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    """The finished run of `command` with HOME and nothing else of ours in its environment."""
    base = {"PATH": os.environ["PATH"], **({"HOME": str(home)} if home else {}), **(environment or {})}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [str(word) for word in command], env=base, capture_output=True, text=True, timeout=60, check=False, **more
    )


def fields(text: str) -> dict[str, list[str]]:
    """The program's `name=value` lines."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        found.setdefault(name, []).append(value)
    return found


def cached(folder: Path) -> list[Path]:
    """Every file in a cache, temporary ones too."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Each way to start: the shells with the APE as their argument, and the assimilated copy by itself.
WAYS = [*SHELLS, "native"]


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest, ape: Path, native: Path) -> list[str | Path]:
    return [native] if request.param == "native" else [*SHELLS[request.param], ape]


def test_it_starts_its_best_slice_and_hands_everything_on(start: list[str | Path], home: Path) -> None:
    arguments = ["cat", "a b", "", "*", "quote'\"", "größe", "$HOME", "\\"]
    done = started([*start, *arguments], home, input="line\nlast")
    assert done.returncode == 0, done.stderr
    found = fields(done.stdout)
    assert found["slice"] == [best_slice()]
    assert found["arg"] == arguments
    assert found["file"] == [str(start[-1])]
    assert done.stdout.endswith("\nline\nlast")
    assert done.stderr == ""
    sha256 = next(one.sha256 for one in read_container(Path(start[-1])).slices if one.name == best_slice())
    assert cached(home) == [home / ".cache" / "ape" / sha256 / "hello"]


def best_slice() -> str:
    flags = Path("/proc/cpuinfo").read_text().split()
    return "linux-x86_64-v3" if {"avx2", "fma", "bmi2"} <= set(flags) else "linux-x86_64-v1"


def test_the_exit_code_is_the_programs(start: list[str | Path], home: Path) -> None:
    assert started([*start, "exit", "42"], home).returncode == 42


def test_a_signal_reaches_the_program_in_the_same_process(start: list[str | Path], home: Path) -> None:
    command = [str(word) for word in [*start, "wait"]]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while (line := process.stdout.readline()) not in {"ready\n", ""}:
            lines.append(line)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "caught\n"
        assert process.wait(30) == 40
    assert fields("".join(lines))["pid"] == [str(process.pid)]


def test_the_environment_is_handed_on_untouched(start: list[str | Path], home: Path) -> None:
    """Even of variables that are named as the shell part might name its own."""
    for name in ("f", "flags", "MAGIC", "ape_c"):
        value = "it's"
        done = started([*start, "getenv", name], home, {name: value})
        assert fields(done.stdout)["env"] == ([value] if name != "ape_c" else fields(done.stdout)["env"])
    done = started([*start, "getenv", "APE_FILE"], home, {"APE_FILE": "stale"})
    assert fields(done.stdout)["env"] == [str(start[-1])]


def test_a_slice_can_be_named(start: list[str | Path], home: Path) -> None:
    done = started(start, home, {"APE_SLICE": "linux-x86_64-v1"})
    assert fields(done.stdout)["slice"] == ["linux-x86_64-v1"]
    for name in ("linux-x86_64-v7", "windows-x86_64-v1"):
        done = started(start, home, {"APE_SLICE": name})
        assert done.returncode == 127
        assert name in done.stderr
        assert "linux-x86_64-v1" in done.stderr.partition("this file has:")[2]


def test_the_second_start_uses_the_first_ones_copy(start: list[str | Path], home: Path) -> None:
    started(start, home)
    (copy,) = cached(home)
    before = copy.stat()
    assert started(start, home).returncode == 0
    assert cached(home) == [copy]
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_copy_of_the_wrong_size_is_replaced(start: list[str | Path], home: Path) -> None:
    started(start, home)
    (copy,) = cached(home)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1])
    assert started(start, home).returncode == 0
    assert copy.read_bytes() == whole
    assert cached(home) == [copy]


def test_first_starts_at_once_all_work(start: list[str | Path], home: Path) -> None:
    command = [str(word) for word in [*start, "exit", "5"]]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(6)]
    assert [process.wait(60) for process in running] == [5] * 6
    assert len(cached(home)) == 1


def test_xdg_cache_home_is_used_when_absolute(start: list[str | Path], home: Path, tmp_path: Path) -> None:
    started(start, home, {"XDG_CACHE_HOME": str(tmp_path / "x" / "cache")})
    assert len(cached(tmp_path / "x" / "cache" / "ape")) == 1
    assert cached(home) == []
    started(start, home, {"XDG_CACHE_HOME": "relative"}, cwd=tmp_path)
    assert len(cached(home)) == 1
    assert not (tmp_path / "relative").exists()


def test_without_a_home_it_unpacks_to_a_private_folder(start: list[str | Path], tmp_path: Path) -> None:
    # zsh asks the password database when HOME is unset.
    homes = (Path("/dev/null/home"),) if start[0] == "zsh" else (None, Path("/dev/null/home"))
    for number, home in enumerate(homes):
        shared = tmp_path / f"tmp{number}"
        shared.mkdir()
        done = started(start, home, {"TMPDIR": str(shared)})
        assert done.returncode == 0, done.stderr
        private = shared / f"ape-{os.geteuid()}"
        assert private.stat().st_mode & 0o777 == 0o700
        assert len(cached(private)) == 1
        assert started(start, home, {"TMPDIR": str(shared)}).returncode == 0
        assert len(cached(private)) == 1


def test_a_folder_planted_in_tmp_is_not_used(start: list[str | Path], tmp_path: Path) -> None:
    shared, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    (shared / f"ape-{os.geteuid()}").symlink_to(elsewhere)
    done = started(start, Path("/dev/null/home"), {"TMPDIR": str(shared)})
    assert done.returncode == 0, done.stderr  # /tmp is the place after TMPDIR
    assert cached(elsewhere) == []
    record = next(one for one in read_container(Path(start[-1])).slices if one.name == best_slice())
    shutil.rmtree(Path("/tmp") / f"ape-{os.geteuid()}" / record.sha256)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_home_is_passed_over(start: list[str | Path], open_folder: Path) -> None:
    program = shutil.copy(start[-1], open_folder)
    home, shared = open_folder / "home", open_folder / "tmp"
    home.mkdir()
    shared.mkdir()
    more: dict[str, object] = {}
    if os.geteuid() == 0:  # root may write anywhere
        os.chown(home, NOBODY, NOBODY)
        os.chown(shared, NOBODY, NOBODY)
        more = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    home.chmod(0o555)
    for _ in range(2):
        done = started([*start[:-1], program], home, {"TMPDIR": str(shared)}, **more)
        assert done.returncode == 0, done.stderr
        assert len(cached(shared)) == 1
    assert list(home.iterdir()) == []


def test_another_users_home_is_not_trusted(start: list[str | Path], open_folder: Path) -> None:
    """Under some sudo's root keeps the user's HOME; what lies in that cache could be anything."""
    if os.geteuid() != 0:
        theirs = Path("/")  # always somebody else's
    else:
        theirs = open_folder / "theirs"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
    shared = open_folder / "tmp"
    shared.mkdir()
    done = started(start, theirs, {"TMPDIR": str(shared)})
    assert done.returncode == 0, done.stderr
    assert len(cached(shared)) == 1
    assert not (theirs / ".cache").exists() or theirs == Path("/")


@pytest.mark.parametrize("name", ["with space", 'quote\'s "file"', "größe-漢字", "$dollar`tick`", "-dash"])
def test_any_file_name_will_do(start: list[str | Path], home: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / name
    shutil.copy(start[-1], path)
    for word in (path, f"./{name}"):
        done = started([*start[:-1], word], home, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert fields(done.stdout)["file"] == [str(path)]


def test_it_is_found_along_path_and_through_a_symlink(start: list[str | Path], home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(start[-1], folder / "hello")
    (folder / "hello-link").symlink_to("hello")
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    shell = [str(word) for word in start[:-1]] or ["sh"]
    for name in ("hello", "hello-link"):
        done = started([*shell, "-c", f'{name} "$@"', "sh", "exit", "3"], home, path)
        assert done.returncode == 3, done.stderr
        assert fields(done.stdout)["file"] == [str(folder / name)]


def test_a_name_without_a_slash_is_this_folders_file(ape: Path, home: Path) -> None:
    for shell in SHELLS.values():
        done = started([*shell, ape.name], home, cwd=ape.parent)
        assert fields(done.stdout)["file"] == [str(ape)]


def test_a_truncated_file_says_so_and_leaves_nothing(start: list[str | Path], home: Path, tmp_path: Path) -> None:
    record = next(one for one in read_container(Path(start[-1])).slices if one.name == best_slice())
    path = tmp_path / "cut"
    path.write_bytes(Path(start[-1]).read_bytes()[: record.offset + record.size - 1])
    path.chmod(0o755)
    done = started([*start[:-1], path], home)
    assert done.returncode == 126
    assert "truncated" in done.stderr
    assert cached(home) == []


def test_an_altered_slice_says_so_and_leaves_nothing(start: list[str | Path], home: Path, tmp_path: Path) -> None:
    record = next(one for one in read_container(Path(start[-1])).slices if one.name == best_slice())
    data = bytearray(Path(start[-1]).read_bytes())
    data[record.offset + record.size // 2] ^= 1
    path = tmp_path / "altered"
    path.write_bytes(data)
    path.chmod(0o755)
    done = started([*start[:-1], path], home)
    assert done.returncode == 126
    assert "altered" in done.stderr
    assert cached(home) == []
    assert not list(home.rglob("hello"))


def only(order: LinkSpec, tmp_path: Path, *names: str) -> Path:
    slices = tuple(one for one in order.slices if one.name in names)
    return link(replace(order, slices=slices), tmp_path / "few").path


def test_a_file_without_a_fitting_slice_says_what_it_has(
    start: list[str | Path], order: LinkSpec, home: Path, tmp_path: Path
) -> None:
    for names, code in ((("windows-x86_64-v1", "macos-aarch64"), 127), (("linux-x86_64-v9",), 126)):
        path = only(order, tmp_path, *names)
        if len(start) == 1:
            assimilate(path, "linux-x86_64")
        done = started([*start[:-1], path], home)
        assert done.returncode == code
        assert all(name in done.stderr for name in names)
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("said, name", [("Darwin arm64", "macos-aarch64"), ("Linux aarch64", "linux-aarch64-v8")])
def test_uname_decides_which_slice_is_unpacked(ape: Path, home: Path, tmp_path: Path, said: str, name: str) -> None:
    """bash, which does not try to read a foreign executable as a script."""
    fake = tmp_path / "bin" / "uname"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho '{said}'\n")
    fake.chmod(0o755)
    done = started(["bash", ape], home, {"PATH": f"{fake.parent}:{os.environ['PATH']}"})
    assert done.returncode == 126
    (copy,) = cached(home)
    record = next(one for one in read_container(ape).slices if one.name == name)
    assert copy.parent.name == record.sha256
    assert copy.read_bytes() == ape.read_bytes()[record.offset : record.offset + record.size]


@pytest.mark.parametrize("shell", SHELLS)
def test_assimilate_as_the_sole_argument_makes_a_native_file(
    ape: Path, native: Path, home: Path, tmp_path: Path, shell: str
) -> None:
    path = Path(shutil.copy(ape, tmp_path / "copy"))
    with pytest.raises(OSError, match="Exec format error"):
        started([path], home)
    assert started([*SHELLS[shell], path, "--assimilate"], home).returncode == 0
    assert path.read_bytes() == native.read_bytes()
    done = started([path, "exit", "6"], home)
    assert done.returncode == 6
    assert fields(done.stdout)["zero"] == [str(path)]
    assert started([path, "--assimilate"], home).returncode == 0


@pytest.mark.parametrize("way", [*SHELLS, "loader"])
def test_a_file_with_two_names_is_not_assimilated_in_place(
    ape: Path, loaders: Path, home: Path, tmp_path: Path, way: str
) -> None:
    """A store's object is such a file: what it holds must stay what its hash says."""
    path = Path(shutil.copy(ape, tmp_path / "object"))
    os.link(path, tmp_path / "blob")
    starter = [loaders / "x86_64"] if way == "loader" else SHELLS[way]
    assert started([*starter, path, "--assimilate"], home).returncode == 121
    assert path.read_bytes() == ape.read_bytes()


def test_assimilate_with_other_arguments_is_the_programs(start: list[str | Path], home: Path) -> None:
    done = started([*start, "x", "--assimilate"], home)
    assert fields(done.stdout)["arg"] == ["x", "--assimilate"]


@pytest.fixture(scope="session")
def loaders(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """APE loaders of our own, by machine."""
    folder = tmp_path_factory.mktemp("loader")
    for machine in ("x86_64", "aarch64"):
        flags = ["-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector", "-fno-sanitize=all", "-O1", "-fPIC"]
        place = ["-Wl,--image-base=0x10000000", "-Wl,-z,max-page-size=65536", "-Wl,-e,_start"]
        source = [f"-I{LAUNCHER}", "-o", str(folder / machine), str(HERE / "loader.c")]
        compiler.compile("-target", f"{machine}-linux-musl", *flags, *place, *source)
    return folder


def test_an_ape_loader_starts_the_launcher(loaders: Path, ape: Path, home: Path) -> None:
    done = started([loaders / "x86_64", ape, "cat", "a b"], home, input="in")
    assert done.returncode == 0, done.stderr
    found = fields(done.stdout)
    assert (found["slice"], found["arg"], found["file"]) == ([best_slice()], ["cat", "a b"], [str(ape)])
    assert found["zero"] == [str(ape)]
    assert done.stdout.endswith("\nin")
    copy = Path(shutil.copy(ape, home / "copy"))
    assert started([loaders / "x86_64", copy, "--assimilate"], home).returncode == 0
    assert started([copy, "exit", "8"], home).returncode == 8


@pytest.mark.parametrize("cpu, name", [("max", "linux-aarch64-v8.2"), ("cortex-a53", "linux-aarch64-v8")])
def test_the_arm_launcher_works_under_qemu(loaders: Path, ape: Path, home: Path, cpu: str, name: str) -> None:
    """The launcher unpacks; qemu-user hands its execve to the host's kernel, which may or may not know arm64."""
    qemu = ["qemu-aarch64-static", "-cpu", cpu]
    record = next(one for one in read_container(ape).slices if one.name == name)
    native = assimilate(ape, "linux-aarch64", home / "arm").path
    commands: list[list[str | Path]] = [[*qemu, native], [*qemu, loaders / "aarch64", ape]]
    for number, command in enumerate(commands):
        cache = home / str(number)
        done = started(command, home, {"XDG_CACHE_HOME": str(cache), "QEMU_CPU": cpu})
        assert done.returncode == 0 or (done.returncode == 126 and "cannot start" in done.stderr), done.stderr
        (copy,) = cached(cache)
        assert copy == cache / "ape" / record.sha256 / "hello"
        done = started([*qemu, copy, "exit", "4"], home)
        assert (done.returncode, fields(done.stdout)["slice"]) == (4, [name])


def test_the_launchers_are_the_same_bytes_from_another_folder(
    compiler: Compiler, order: LinkSpec, tmp_path: Path
) -> None:
    copy = tmp_path / "another folder"
    shutil.copytree(LAUNCHER, copy)
    cache = str(tmp_path / "cache")
    environment = {**compiler.environment(), "OUT": str(tmp_path / "out"), "ZIG_LOCAL_CACHE_DIR": cache}
    environment["ZIG_GLOBAL_CACHE_DIR"] = cache
    subprocess.run(["sh", str(copy / "build.sh")], env=environment, check=True)
    for path in order.launchers.values():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
        assert b"mmojo_forge" not in path.read_bytes()
