"""Images in the hands of others: skopeo, a registry, umoci; and containers that have nothing but what is in them.

    apt-get install skopeo docker-registry umoci runc

are used where they are installed. bubblewrap, which forge needs anyway, stands in for a container engine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.oci.image import ImageOptions, write_image, write_packaged_image
from mmojo_forge.ape.oci.tar import Bytes, whole_file
from mmojo_forge.ape.packaging.gather import gather
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset
from tests.support.ape_programs import Compiler, build_order
from tests.support.built import built, tiny_model
from tests.support.serve import free_port

USER = 65532
MODEL = {"model.gguf": Bytes(b"GGUF" * 100_000)}
OPTIONS = ImageOptions("v1", command=("cat", "a b"))


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def ape(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    order = build_order(Compiler(zig, base / "zig-cache"), base / "ape-build")
    return link(order, tmp_path_factory.mktemp("ape") / "hello.ape").path


@pytest.fixture(scope="session")
def layout(ape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(ape, MODEL, OPTIONS, tmp_path_factory.mktemp("image") / "layout").path


def digest(layout: Path) -> str:
    found: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return found


def blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs" / str(descriptor["digest"]).replace(":", "/")


def manifest_of(layout: Path, architecture: str) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    image = json.loads(blob(layout, index["manifests"][0]).read_text())
    one = next(one for one in image["manifests"] if one["platform"]["architecture"] == architecture)
    found: dict[str, Any] = json.loads(blob(layout, one).read_text())
    return found


@needs("skopeo")
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_skopeo_reads_both_platforms(layout: Path, architecture: str) -> None:
    seen = json.loads(run("skopeo", "inspect", "--override-arch", architecture, f"oci:{layout}:v1"))
    assert (seen["Architecture"], seen["Os"]) == (architecture, "linux")
    assert seen["Layers"] == [one["digest"] for one in manifest_of(layout, architecture)["layers"]]
    raw = run("skopeo", "inspect", "--raw", f"oci:{layout}:v1")
    assert "sha256:" + sha256(raw.encode()).hexdigest() == digest(layout)


@needs("skopeo")
def test_skopeo_takes_the_archive_for_the_same_image(layout: Path, ape: Path, tmp_path: Path) -> None:
    archive = write_image(ape, MODEL, OPTIONS, tmp_path / "image.tar", archive=True)
    assert archive.digest == digest(layout)
    run("skopeo", "copy", "--all", "--preserve-digests", f"oci-archive:{archive.path}:v1", f"oci:{tmp_path / 'out'}:v1")
    assert blobs(tmp_path / "out") == blobs(layout)


def blobs(layout: Path) -> list[str]:
    return sorted(path.name for path in (layout / "blobs" / "sha256").iterdir())


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry on this machine, empty; its address."""
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    settings = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(folder / "data")}}}
    (folder / "config.yml").write_text(json.dumps({**settings, "http": {"addr": address}, "log": {"level": "error"}}))
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: ask(f"http://{address}/v2/") == b"{}", process)
            yield address
        finally:
            process.terminate()


def ask(url: str, question: object = None) -> bytes:
    data = json.dumps(question).encode() if question is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError):
        return b""


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "it did not answer"
        time.sleep(0.1)


@needs("skopeo", "docker-registry")
def test_a_registry_takes_it_and_gives_the_same_digests_back(layout: Path, tmp_path: Path) -> None:
    keep = ("--all", "--preserve-digests")
    with registry(tmp_path / "registry") as address:
        there = f"docker://{address}/mmojo/hello:v1"
        run("skopeo", "copy", *keep, "--dest-tls-verify=false", f"oci:{layout}:v1", there)
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", there)
        assert "sha256:" + sha256(raw.encode()).hexdigest() == digest(layout)
        run("skopeo", "copy", *keep, "--src-tls-verify=false", there, f"oci:{tmp_path / 'back'}:v1")
    assert blobs(tmp_path / "back") == blobs(layout)
    assert digest(tmp_path / "back") == digest(layout)


@needs("skopeo", "docker-registry")
def test_a_new_program_sends_no_model_again(layout: Path, ape: Path, tmp_path: Path) -> None:
    # Another program: the same with another file in it.
    other = Path(shutil.copy(ape, tmp_path / "other.ape"))
    append(other, [Asset("notes", Path(__file__))])
    newer = write_image(other, MODEL, ImageOptions(), tmp_path / "newer").path
    model = manifest_of(layout, "amd64")["layers"][0]
    assert manifest_of(newer, "arm64")["layers"][0] == model
    with registry(tmp_path / "registry") as address:
        for source in (f"{layout}:v1", f"{newer}:latest"):
            target = f"docker://{address}/mmojo/hello"
            run("skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{source}", target)
    log = (tmp_path / "registry" / "log").read_text()
    uploads = [line for line in log.splitlines() if '"PUT /v2/mmojo/hello/blobs/uploads/' in line]
    for layer in (model, manifest_of(layout, "amd64")["layers"][1], manifest_of(newer, "amd64")["layers"][1]):
        assert sum(layer["digest"].partition(":")[2] in line for line in uploads) == 1


@needs("skopeo", "umoci")
@pytest.mark.parametrize("architecture, system", [("amd64", "linux-x86_64"), ("arm64", "linux-aarch64")])
def test_umoci_unpacks_what_was_put_in(layout: Path, ape: Path, tmp_path: Path, architecture: str, system: str) -> None:
    """umoci checks each layer's digest, and knows no image for several platforms."""
    one, bundle = tmp_path / "one", tmp_path / "bundle"
    run("skopeo", "copy", "--override-arch", architecture, f"oci:{layout}:v1", f"oci:{one}:v1")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{one}:v1", bundle)
    root = bundle / "rootfs"
    assert (root / "mmojo-server-support/model.gguf").read_bytes() == b"GGUF" * 100_000
    slices = [record for record in read_container(ape).slices if record.system == system]
    for record in slices:
        copy = root / "var/cache/hello/ape" / record.sha256 / "hello"
        assert sha256(copy.read_bytes()).hexdigest() == record.sha256
    found = read_container(root / "hello", verify=True)
    assert (found.assimilated, [record.name for record in found.slices]) == (system, [one.name for one in slices])


def unpack(layout: Path, to: Path, architecture: str = "amd64") -> dict[str, Any]:
    """The layers of an image, one over the other, without their owners; how the image wants to be started."""
    to.mkdir()
    manifest = manifest_of(layout, architecture)
    for layer in manifest["layers"]:
        with tarfile.open(blob(layout, layer)) as archive:
            archive.extractall(to, filter="tar")
    for path in to.rglob("*"):
        os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    # A container engine makes these for what it mounts there.
    for name in ("proc", "dev", "tmp"):
        (to / name).mkdir(exist_ok=True)
    started: dict[str, Any] = json.loads(blob(layout, manifest["config"]).read_text())["config"]
    return started


@contextmanager
def contained(
    root: Path, started: dict[str, Any], *more: str, user: int = USER, mounts: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process in a container: the image's files read-only, its environment, its user, its command and `more`.

    What lies in the image belongs to `USER` as long as that is who runs it: bubblewrap maps whoever runs the test.
    """
    environment = [word for one in started["Env"] for word in ("--setenv", *one.split("=", 1))]
    places = ("--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", *mounts)
    spaces = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--uid", str(user), "--gid", str(user))
    command = [*started["Entrypoint"], *started.get("Cmd", []), *more]
    with subprocess.Popen(
        ["bwrap", *spaces, *places, "--clearenv", *environment, "--die-with-parent", "--chdir", "/", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_container_needs_nothing_but_the_image_and_can_write_nowhere(layout: Path, ape: Path, tmp_path: Path) -> None:
    started = unpack(layout, tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        *("dev", "hello", "mmojo-server-support", "proc", "tmp", "var")
    ]
    with contained(tmp_path / "root", started) as process:
        out, _ = process.communicate("from outside", timeout=60)
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert {"arg=cat", "arg=a b", "file=/hello", "zero=/hello"} <= set(lines)
    assert out.endswith("from outside")
    best = next(line.partition("=")[2] for line in lines if line.startswith("slice="))
    assert best in {record.name for record in read_container(ape).slices if record.system == "linux-x86_64"}


def test_another_user_needs_a_writable_tmp(layout: Path, tmp_path: Path) -> None:
    """As some clusters choose the user: what lies in the image is not that user's own, so it is unpacked again."""
    started = unpack(layout, tmp_path / "root")
    if os.geteuid() != 0:
        pytest.skip("only root can hand the slices to somebody else")
    for path in (tmp_path / "root/var/cache").rglob("*"):
        os.chown(path, 12345, 12345)
    with contained(tmp_path / "root", started) as process:
        out, _ = process.communicate("", timeout=60)
    assert (process.returncode, "nowhere to unpack" in out) == (126, True)
    with contained(tmp_path / "root", started, mounts=("--tmpfs", "/tmp")) as process:
        out, _ = process.communicate("", timeout=60)
    assert process.returncode == 0, out


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the real server with a model."""
    program = built("mmojo-server.ape", "FORGE_TEST_APE")
    support = {"tiny.gguf": whole_file(tiny_model())}
    options = ImageOptions(command=("--model", "/mmojo-server-support/tiny.gguf"))
    return write_image(program, support, options, tmp_path_factory.mktemp("server") / "layout").path


QUESTION = {"prompt": "Once upon a time", "n_predict": 8, "temperature": 0, "seed": 1, "ignore_eos": True}
SMALL = ("-c", "256", "-t", "2", "--no-warmup")


def check_completion(port: int, process: subprocess.Popen[Any]) -> None:
    """Asks at another of the machine's addresses than 127.0.0.1, where a server answers that listens on all of them."""
    wait_for(lambda: b"ok" in ask(f"http://127.0.0.2:{port}/health"), process)
    answer = json.loads(ask(f"http://127.0.0.2:{port}/completion", QUESTION))
    assert answer["tokens_predicted"] == 8


def test_the_server_answers_from_a_container_that_can_write_nowhere(server: Path, tmp_path: Path) -> None:
    started = unpack(server, tmp_path / "root")
    port = free_port()
    with contained(tmp_path / "root", started, "--port", str(port), *SMALL) as process:
        check_completion(port, process)


@pytest.mark.slow
def test_a_packaged_server_finds_its_arguments_model_and_page_in_a_container(tmp_path: Path) -> None:
    program = built("mmojo-server.ape", "FORGE_TEST_APE")
    if not any(entry.name.startswith("ui/chat/") for entry in read_container(program).entries):
        pytest.skip("this server is older than its pages and arguments")
    (tmp_path / "my-args").write_text(" ".join(SMALL))
    models, args = (NamedFile("tiny.gguf", tiny_model()),), NamedFile("my-args", tmp_path / "my-args")
    contents = gather(PackageOrder(program, name="hello", models=models, args=args))
    write_packaged_image(contents, ImageOptions(), tmp_path / "layout", lambda _: None)
    started = unpack(tmp_path / "layout", tmp_path / "root")
    assert "Cmd" not in started
    port = free_port()
    with contained(tmp_path / "root", started, "--port", str(port)) as process:
        check_completion(port, process)
        assert b"<html" in ask(f"http://127.0.0.2:{port}/")
        assert json.loads(ask(f"http://127.0.0.2:{port}/v1/models"))["data"][0]["id"] == "hello"


@needs("skopeo", "umoci", "runc")
@pytest.mark.skipif(os.geteuid() != 0, reason="as another user than root runc wants an image that was unpacked for it")
def test_the_server_runs_in_a_real_container_and_stops_when_asked_to(server: Path, tmp_path: Path) -> None:
    """As a cluster would start it: its user, a root that is read-only, no privileges, the first process of its kind."""
    bundle, port = tmp_path / "bundle", free_port()
    run("skopeo", "copy", "--override-arch", "amd64", f"oci:{server}:latest", f"oci:{tmp_path / 'one'}:v1")
    run("umoci", "unpack", "--image", f"{tmp_path / 'one'}:v1", bundle)
    config = json.loads((bundle / "config.json").read_text())
    process = config["process"]
    assert (process["user"]["uid"], process["args"][0]) == (USER, "/mmojo-server")
    process |= {"terminal": False, "noNewPrivileges": True, "args": [*process["args"], "--port", str(port), *SMALL]}
    process["capabilities"] = {kind: [] for kind in process["capabilities"]}
    config["root"]["readonly"] = True
    config["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "nosuid"]}
    )
    # The test must reach it.
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"forge-test-{os.getpid()}"
    state = ("--root", str(tmp_path / "runc"))
    log = (tmp_path / "log").open("w+")
    command = ["runc", *state, "run", "--bundle", str(bundle), name]
    with log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as runc:
        try:
            check_completion(port, runc)
            run("runc", *state, "kill", name, "TERM")
            assert runc.wait(30) in {0, 128 + signal.SIGTERM}
        finally:
            subprocess.run(["runc", *state, "delete", "--force", name], capture_output=True, check=False)
            runc.kill()
