"""GPU modules in a packaged server: used where there is a driver, one line and the CPU where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ape_samples.modules import make_elf
from tests.support.built import built, server_program, tiny_model
from tests.support.packed import ARGUMENTS, Running, devices, package, running, start_of, the_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modules are made for Linux")

PLACE = "modules/linux-x86_64"
ASKED = {"prompt": "Once upon a time", "n_predict": 8, "temperature": 0}


@pytest.fixture(scope="module")
def vulkan() -> Path:
    return built("ggml-vulkan")


@pytest.fixture(scope="module")
def hosts() -> Path:
    return built("mmojo-server.hosts")


@pytest.fixture(scope="module")
def abi(vulkan: Path) -> str:
    found: str = json.loads((vulkan / "module.json").read_text())["ggml"]["abi"]
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, vulkan: Path, hosts: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "args").write_text(ARGUMENTS)
    out = folder / "hello.ape"
    package(
        the_server(), out, "--model", tiny_model(), "--args", folder / "args", "--module", vulkan, "--module", hosts
    )
    yield out
    out.unlink()


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


@pytest.fixture(scope="module")
def lavapipe() -> Path:
    """Runs a program with a device that it can see, so that modules are unpacked for it."""
    return built("lavapipe") / "bin" / "lavapipe"


def completes(server: Running) -> str:
    status, content, _ = server.ask("/completion", ASKED)
    assert status == 200, content
    answer = json.loads(content)
    assert answer["tokens_predicted"] == 8
    return str(answer["content"])


def lines(server: Running, word: str) -> list[str]:
    return [line for line in server.log.read_text(errors="replace").splitlines() if word in line]


def test_without_a_driver_it_is_one_line_and_the_cpu(packed: Path, cache: dict[str, str], tmp_path: Path) -> None:
    with running(start_of(packed), tmp_path / "log", environment=cache) as server:
        completes(server)
        assert os.readlink(f"/proc/{server.pid}/exe").startswith(cache["XDG_CACHE_HOME"])
        said = lines(server, "ggml-vulkan")
    # A loader may be here without a driver; a graphics card is not what machines that run tests have.
    if any("is used" in line for line in said):
        pytest.skip("this machine has a GPU")
    assert len(said) == 1
    assert "no driver here: libvulkan.so.1" in said[0] or "no device that it can use" in said[0]


def test_with_both_modules_and_no_driver_it_answers_and_says_a_line_for_each(
    vulkan: Path, hosts: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """The file that is for everybody, on a machine that has nothing: drivers are hidden where there are some."""
    (tmp_path / "args").write_text(ARGUMENTS)
    both = tmp_path / "both.ape"
    folders = [word for one in (built("ggml-cuda.lean-quick"), vulkan, hosts) for word in ("--module", one)]
    package(the_server(), both, "--model", tiny_model(), "--args", tmp_path / "args", *folders)
    for name in ("libcuda.so.1", "libvulkan.so.1"):
        (tmp_path / "none" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "none" / name).touch()
    environment = {**cache, "LD_LIBRARY_PATH": str(tmp_path / "none")}
    with running(start_of(both), tmp_path / "log", environment=environment) as server:
        completes(server)
        said = lines(server, "modules: ")
    assert [line.partition("modules: ")[2].partition(":")[0] for line in said] == [
        "ggml-cuda is not used",
        "ggml-vulkan is not used",
    ]
    assert "libcuda.so.1" in said[0]
    assert "libvulkan.so.1" in said[1]


def test_with_a_driver_the_model_lies_on_the_device(
    packed: Path, cache: dict[str, str], lavapipe: Path, tmp_path: Path
) -> None:
    environment = {**cache, "GGML_VK_VISIBLE_DEVICES": "0"}
    assert "llvmpipe" in devices(packed, environment, lavapipe).stdout
    command = [lavapipe, *start_of(packed), "--log-verbosity", "4"]
    with running(command, tmp_path / "log", environment=environment) as server:
        completes(server)
        assert lines(server, "using device Vulkan0")
        assert any("Vulkan0 model buffer size" in line for line in lines(server, "Vulkan0")), server.log.read_text()


def test_a_device_with_too_little_memory_is_told(packed: Path, cache: dict[str, str], lavapipe: Path) -> None:
    # lavapipe has 2 GiB; left to itself the server would put fewer layers there.
    command = [lavapipe, *start_of(packed), "--fit", "off", "--gpu-layers", "all", "--ctx-size", "8000000"]
    given = {**os.environ, **cache, "GGML_VK_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "failed to allocate Vulkan0 buffer" in done.stderr


def test_a_native_program_finds_them_beside_itself(
    vulkan: Path, hosts: Path, cache: dict[str, str], lavapipe: Path, tmp_path: Path
) -> None:
    program = tmp_path / "mmojo-server"
    shutil.copy(server_program(), program)
    for name, folder in (("ggml-vulkan", vulkan), ("host", hosts)):
        shutil.copytree(folder, tmp_path / "mmojo-server-support" / PLACE / name)
    found = devices(program, {**cache, "GGML_VK_VISIBLE_DEVICES": "0"}, lavapipe)
    assert "llvmpipe" in found.stdout
    assert not Path(cache["XDG_CACHE_HOME"]).exists()


def test_none_are_used_where_none_are_wanted(packed: Path, cache: dict[str, str]) -> None:
    assert "ggml-vulkan" not in devices(packed, {**cache, "MMOJO_MODULES": "none"}).stderr
    given = {**os.environ, **cache}
    command: list[str | Path] = [*start_of(packed), "--modules", "none", "--list-devices"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=True)
    assert "ggml-vulkan" not in done.stderr


def test_one_of_another_ggml_is_refused_by_its_version(abi: str, vulkan: Path, hosts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    shutil.copytree(hosts, folder / "host")
    library = folder / "ggml-vulkan" / "libggml-vulkan.so"
    library.parent.mkdir()
    library.write_bytes((vulkan / library.name).read_bytes().replace(abi.encode(), b"0123456789abcdef"))
    done = devices(server_program(), {"MMOJO_MODULES": str(folder)})
    assert done.returncode == 0
    assert "ggml-vulkan is not used: it was built for another version of ggml (0123456789abcdef" in done.stderr
    (folder / "host" / "mmojo-server-v2").chmod(0o755)
    refused = package(
        server_program(), tmp_path / "out", "--module", library.parent, "--module", folder / "host", expect=2
    )
    assert "another version of ggml" in refused.stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a compiler")
def test_an_old_driver_is_told_what_is_needed(abi: str, hosts: Path, tmp_path: Path) -> None:
    make_elf(tmp_path / "m" / "ggml-cuda" / "libggml-cuda.so", f"ggml={abi}\nneeds=libcuda.so.1\ndriver=13000\n")
    shutil.copytree(hosts, tmp_path / "m" / "host")
    (tmp_path / "driver.c").write_text("int cuDriverGetVersion(int *version) { *version = 12040; return 0; }\n")
    subprocess.run(["cc", "-shared", tmp_path / "driver.c", "-o", tmp_path / "libcuda.so.1"], check=True)
    environment = {"MMOJO_MODULES": str(tmp_path / "m"), "LD_LIBRARY_PATH": str(tmp_path)}
    done = devices(server_program(), environment)
    assert done.returncode == 0
    assert "the driver here is for CUDA 12.4, it needs one for CUDA 13.0 or later" in done.stderr


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs binutils")
@pytest.mark.parametrize("target", ["ggml-vulkan", "ggml-cuda.lean-quick", "ggml-cuda.lean"])
def test_all_that_a_module_wants_of_ggml_is_in_every_program(target: str, hosts: Path) -> None:
    (library,) = built(target).glob("libggml-*.so")
    wanted = {name for name, place in symbols(library) if place == "UND" and name.startswith(("ggml_", "gguf_"))}
    assert wanted
    for program in hosts.iterdir():
        there = {name for name, place in symbols(program) if place != "UND"}
        assert wanted - there == set(), program.name


def symbols(path: Path) -> set[tuple[str, str]]:
    """The dynamic symbols of an ELF file: name, and the section that it is in or UND."""
    command: list[str | Path] = ["readelf", "--wide", "--dyn-syms", path]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {(row[7], row[6]) for row in map(str.split, rows) if len(row) >= 8}


def test_a_damaged_one_is_not_loaded(
    packed: Path, cache: dict[str, str], lavapipe: Path, tmp_path: Path, vulkan: Path
) -> None:
    data = bytearray(packed.read_bytes())
    library = (vulkan / "libggml-vulkan.so").read_bytes()
    data[data.rindex(library[: 1 << 12]) + len(library) // 2] ^= 1
    bad = tmp_path / "bad.ape"
    bad.write_bytes(data)
    bad.chmod(0o755)
    done = devices(bad, {**cache, "GGML_VK_VISIBLE_DEVICES": "0"}, lavapipe)
    assert done.returncode == 0
    assert "libggml-vulkan.so" in done.stderr
    assert "it is damaged" in done.stderr
    assert "llvmpipe" not in done.stdout


def test_a_parent_that_ignores_its_children_changes_nothing(
    packed: Path, cache: dict[str, str], lavapipe: Path
) -> None:
    """The program inherits it, and yet has to hear how its probe of the one for glibc ended."""
    ignoring = ("sh", "-c", 'trap "" CHLD; exec "$@"', "sh", lavapipe)
    done = devices(packed, {**cache, "GGML_VK_VISIBLE_DEVICES": "0"}, *ignoring)
    assert "llvmpipe" in done.stdout, done.stderr


def test_what_a_kill_left_behind_is_written_over(packed: Path, cache: dict[str, str], lavapipe: Path) -> None:
    assert devices(packed, cache, lavapipe).returncode == 0
    (library,) = Path(cache["XDG_CACHE_HOME"]).glob("ape/modules-*/libggml-vulkan.so")
    before = {path.name: path.read_bytes() for path in library.parent.iterdir()}
    library.unlink()
    (library.parent / f"{library.name}.part").write_bytes(b"\0" * (len(before[library.name]) + 4096))
    assert devices(packed, cache, lavapipe).returncode == 0
    assert {path.name: path.read_bytes() for path in library.parent.iterdir()} == before


def test_two_that_unpack_at_once_leave_what_one_does(packed: Path, cache: dict[str, str], lavapipe: Path) -> None:
    given = {**os.environ, **cache, "GGML_VK_VISIBLE_DEVICES": "0"}
    command = [lavapipe, *start_of(packed), "--list-devices"]
    both = [subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert ["llvmpipe" in one.communicate(timeout=120)[0] for one in both] == [True, True]
    unpacked = [path for folder in Path(cache["XDG_CACHE_HOME"]).glob("ape/modules-*") for path in folder.iterdir()]
    assert "libggml-vulkan.so" in {path.name for path in unpacked}
    assert {path.suffix for path in unpacked} <= {".so", ".json", ""}


def test_a_folder_from_which_nothing_may_be_run_is_passed_over(
    packed: Path, cache: dict[str, str], lavapipe: Path, tmp_path: Path
) -> None:
    cached = Path(cache["XDG_CACHE_HOME"])
    cached.mkdir()
    mount = f'mount -t tmpfs -o noexec none "{cached}" && exec "$@"'
    apart = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mounts of one's own here")
    done = devices(packed, cache, *apart, lavapipe)
    assert "llvmpipe" in done.stdout, done.stderr
    assert list((tmp_path / ".cache" / "ape").glob("modules-*/libggml-vulkan.so"))


def test_where_there_is_no_glibc_the_static_program_goes_on(packed: Path) -> None:
    bwrap = shutil.which("bwrap")
    if not bwrap:
        pytest.skip("needs bubblewrap")
    busybox = built("busybox") / "bin" / "busybox"
    sandbox: list[str | Path] = [
        bwrap,
        "--unshare-all",
        "--die-with-parent",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
    ]
    sandbox += ["--ro-bind", busybox, "/bin/sh", "--ro-bind", packed, "/hello.ape"]
    # The shell is busybox alone, so its commands are looked up there.
    for name in (
        "uname",
        "dd",
        "head",
        "ls",
        "mktemp",
        "mkdir",
        "mv",
        "rm",
        "rmdir",
        "chmod",
        "wc",
        "sha256sum",
        "tail",
    ):
        sandbox += ["--ro-bind", busybox, f"/bin/{name}"]
    sandbox += ["--clearenv", "--setenv", "PATH", "/bin"]
    command = [*sandbox, *(["/bin/sh"] if len(start_of(packed)) > 1 else []), "/hello.ape", "--list-devices"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "no GPU is used: " in done.stderr
    assert "it needs a system with glibc 2.28 or later" in done.stderr
