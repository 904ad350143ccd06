"""Images, read back by a reader of the test's own: the specification's rules, what lies in them, what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.oci import image as images
from mmojo_forge.ape.oci.image import Image, ImageOptions, write_image
from mmojo_forge.ape.oci.tar import Bytes, ByteSource, whole_file
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset
from mmojo_forge.errors import ForgeError
from tests.support.ape_samples import write_inputs

BODIES = {
    "linux-x86_64/v3": b"three" * 100,
    "linux-x86_64/v2": b"two",
    "linux-aarch64": b"arm",
    "windows-x86_64": b"windows",
    "macos-aarch64": b"mac",
}
GGUF = struct.pack("<IIQQ", 0x46554747, 3, 0, 0)
MODELS = {"tiny.gguf": b"GGUF" * 20000, "other.gguf": b"GGUF other"}
FILES = {
    "ui/chat/index.html": b"<html>" * 100,
    "nested/model.gguf": GGUF,
    # A small one, and directly behind it one that is larger than what a stream reads ahead.
    "notes/a.txt": b"small",
    "notes/b.txt": random.Random(1).randbytes(30_000),
    "build-info.json": json.dumps({"llama.cpp": {"version": "1.2", "commit": "abc", "build": 3}}).encode(),
}


@pytest.fixture(scope="module")
def ape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An APE for all systems, with an adapter, a page and what a build says of itself."""
    folder = tmp_path_factory.mktemp("ape")
    return make_ape(folder, FILES, BODIES)


def make_ape(folder: Path, files: dict[str, bytes], bodies: dict[str, bytes]) -> Path:
    path = link(write_inputs(folder / "in", bodies), folder / "server.ape").path
    for number, (name, data) in enumerate(files.items()):
        source = folder / f"asset-{number}"
        source.write_bytes(data)
        append(path, [Asset(name, source, mapped=name.endswith(".gguf"))])
    return path


def support(**more: bytes) -> dict[str, ByteSource]:
    return {name: Bytes(data) for name, data in {**MODELS, **more}.items()}


V1 = ImageOptions("v1", command=("--jinja",))


@dataclass
class Layout:
    """An image layout, by its files' names; each blob is checked against its name when it is read."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Layout:
        if path.is_dir():
            return cls({one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()})
        with tarfile.open(path) as archive:
            return cls({one.name: archive.extractfile(one).read() for one in archive if one.isfile()})  # type: ignore[union-attr]

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        data = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (descriptor["size"], descriptor["digest"])
        return data

    def document(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(descriptor))
        return found

    @property
    def reference(self) -> dict[str, Any]:
        (found,) = json.loads(self.files["index.json"])["manifests"]
        one: dict[str, Any] = found
        return one

    def manifests(self) -> dict[str, dict[str, Any]]:
        """By architecture."""
        image = self.document(self.reference)
        return {one["platform"]["architecture"]: self.document(one) for one in image["manifests"]}

    def members(self, layer: dict[str, Any]) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(self.blob(layer)), mode="r:") as archive:
            read = {one.name: (one, archive.extractfile(one).read() if one.isfile() else b"") for one in archive}  # type: ignore[union-attr]
            assert len(read) == len(archive.getnames())
            return read


@pytest.fixture(scope="module")
def made(ape: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Layout]:
    done = write_image(ape, support(), V1, tmp_path_factory.mktemp("oci") / "layout")
    return done, Layout.of(done.path)


def test_the_layout_has_what_it_names_and_nothing_else(made: tuple[Image, Layout]) -> None:
    done, layout = made
    assert json.loads(layout.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert layout.reference["digest"] == done.digest
    assert layout.reference["annotations"] == {"org.opencontainers.image.ref.name": "v1"}
    named = {layout.reference["digest"]}
    image = layout.document(layout.reference)
    for one in image["manifests"]:
        manifest = layout.document(one)
        assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, one["mediaType"])
        named |= {one["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    assert {f"blobs/{one.replace(':', '/')}" for one in named} | {"oci-layout", "index.json"} == set(layout.files)


def test_each_platforms_configuration_agrees_with_its_layers(made: tuple[Image, Layout]) -> None:
    done, layout = made
    assert done.platforms == ("linux/amd64", "linux/arm64")
    image = layout.document(layout.reference)
    assert [one["platform"] for one in image["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
    ]
    for architecture, manifest in layout.manifests().items():
        config = layout.document(manifest["config"])
        assert (config["architecture"], config["os"]) == (architecture, "linux")
        # The layers are not compressed, so what they hold has the digest that they have.
        assert config["rootfs"] == {"type": "layers", "diff_ids": [one["digest"] for one in manifest["layers"]]}
        assert len(config["history"]) == len(manifest["layers"])
        assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar"}
        started = config["config"]
        assert (started["Entrypoint"], started["Cmd"], started["User"]) == (["/sample"], ["--jinja"], "65532:65532")
        assert started["Env"] == ["LLAMA_ARG_HOST=0.0.0.0", "XDG_CACHE_HOME=/var/cache/sample"]
        assert (started["ExposedPorts"], started["StopSignal"]) == ({"8080/tcp": {}}, "SIGTERM")
        expected = {"title": "sample", "version": "1.2", "revision": "abc"}
        assert manifest["annotations"] == {
            f"org.opencontainers.image.{name}": value for name, value in expected.items()
        }
        assert started["Labels"] == manifest["annotations"]


def test_each_model_is_a_layer_of_its_own_that_the_platforms_share(made: tuple[Image, Layout]) -> None:
    _, layout = made
    amd64, arm64 = layout.manifests().values()
    assert amd64["layers"][:-1] == arm64["layers"][:-1]
    assert amd64["layers"][-1] != arm64["layers"][-1]
    for layer, name in zip(amd64["layers"], ("other.gguf", "tiny.gguf"), strict=False):
        members = layout.members(layer)
        assert list(members) == ["mmojo-server-support", f"mmojo-server-support/{name}"]
        info, data = members[f"mmojo-server-support/{name}"]
        assert (data, info.mode, info.uid, info.mtime) == (MODELS[name], 0o644, 0, 1)
        assert layer["annotations"] == {
            "org.opencontainers.image.title": name,
            "mmojo-forge.sha256": hashlib.sha256(MODELS[name]).hexdigest(),
        }


@pytest.mark.parametrize("architecture, system", [("amd64", "linux-x86_64"), ("arm64", "linux-aarch64")])
def test_the_program_has_its_platforms_slices_only(
    made: tuple[Image, Layout], ape: Path, tmp_path: Path, architecture: str, system: str
) -> None:
    _, layout = made
    layer = layout.manifests()[architecture]["layers"][-1]
    members = layout.members(layer)
    info, data = members["sample"]
    assert (data[:4], info.mode, info.uid) == (b"\x7fELF", 0o555, 0)
    (tmp_path / "sample").write_bytes(data)
    found, whole = read_container(tmp_path / "sample", verify=True), read_container(ape)
    assert found.assimilated == system
    expected = [(one.name, one.features, one.sha256) for one in whole.slices if one.system == system]
    assert [(one.name, one.features, one.sha256) for one in found.slices] == expected
    assert [one.system for one in found.launchers] == [system]
    with zipfile.ZipFile(tmp_path / "sample") as archive:
        assert {name: archive.read(name) for name in FILES} == FILES
    nested = next(one for one in found.entries if one.name == "nested/model.gguf")
    assert nested.offset % 65536 == 0
    notes = {f"mmojo-forge.slice.{one.name}": f"sha256:{one.sha256}" for one in found.slices}
    assert layer["annotations"] == {"org.opencontainers.image.title": "sample", **notes}


def test_slices_lie_where_the_launcher_looks_for_them_and_are_the_users(made: tuple[Image, Layout], ape: Path) -> None:
    _, layout = made
    members = layout.members(layout.manifests()["amd64"]["layers"][-1])
    for record in read_container(ape).slices:
        path = f"var/cache/sample/ape/{record.sha256}/sample"
        assert (path in members) == (record.system == "linux-x86_64")
        if path in members:
            info, data = members[path]
            assert hashlib.sha256(data).hexdigest() == record.sha256
            assert (info.mode, info.uid, info.gid) == (0o555, 65532, 65532)
    owners = {name: info.uid for name, (info, _) in members.items() if info.isdir()}
    assert (owners["var"], owners["var/cache"], owners["var/cache/sample"], owners["var/cache/sample/ape"]) == (
        *(0, 0),
        *(65532, 65532),
    )
    assert members["tmp"][0].mode == 0o1777
    assert list(members) == sorted(members)


def test_archive_and_folder_hold_the_same_and_twice_is_the_same(
    made: tuple[Image, Layout], ape: Path, tmp_path: Path
) -> None:
    done, layout = made
    first = write_image(ape, support(), V1, tmp_path / "a.tar", archive=True)
    (tmp_path / "elsewhere").mkdir()
    renamed = Path(shutil.copy(ape, tmp_path / "elsewhere" / "renamed"))
    reverse = dict(reversed(support().items()))
    again = write_image(renamed, reverse, V1, tmp_path / "elsewhere" / "b.tar", archive=True)
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.digest == done.digest
    assert Layout.of(first.path).files == layout.files
    with tarfile.open(first.path) as archive:
        assert archive.getnames()[:2] == ["blobs", "blobs/sha256"]
        assert {(one.mtime, one.uid, one.uname) for one in archive} == {(1, 0, "")}


def test_other_files_beside_the_program_are_one_layer(ape: Path, tmp_path: Path) -> None:
    names = ("mmojo-server-args", "deep/er/größe.txt")
    beside = support(**dict.fromkeys(names, b"-c 512"))
    layout = Layout.of(write_image(ape, beside, ImageOptions(), tmp_path / "out").path)
    manifest = layout.manifests()["arm64"]
    assert len(manifest["layers"]) == 4
    members = layout.members(manifest["layers"][2])
    assert list(members) == sorted(members)
    assert {name for name, (info, _) in members.items() if info.isfile()} == {
        f"mmojo-server-support/{name}" for name in names
    }
    assert "mmojo-server-support/deep/er" in members


def test_a_layout_is_replaced_and_what_it_no_longer_needs_goes(
    made: tuple[Image, Layout], ape: Path, tmp_path: Path
) -> None:
    out = tmp_path / "layout"
    write_image(ape, {}, ImageOptions("old"), out)
    done = write_image(ape, support(), V1, out)
    assert done.digest == made[0].digest
    assert Layout.of(out).files == made[1].files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ForgeError) as caught:
        call()
    assert caught.value.message
    return caught.value.reason


def fill(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")


def test_what_is_no_layout_is_left_alone(ape: Path, tmp_path: Path) -> None:
    write = partial(write_image, ape, {}, ImageOptions())
    fill(tmp_path / "other", "letter.txt")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("other", "file", "link"):
        assert reason_of(partial(write, tmp_path / name)) == "oci-in-the-way"
    assert reason_of(partial(write, tmp_path / "other", archive=True)) == "oci-in-the-way"
    assert (tmp_path / "other" / "letter.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "other"]


@pytest.mark.parametrize("index", ['{"manifests":[{},{}]}', "no json", "[]", "{}"])
def test_a_layout_with_other_images_is_left_alone(ape: Path, tmp_path: Path, index: str) -> None:
    out = tmp_path / "layout"
    (out / "blobs").mkdir(parents=True)
    (out / "oci-layout").write_text("{}")
    (out / "index.json").write_text(index)
    assert reason_of(partial(write_image, ape, {}, V1, out)) == "oci-in-the-way"
    assert (out / "index.json").read_text() == index


def test_an_empty_folder_is_taken(ape: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_image(ape, {}, V1, tmp_path / "out")
    assert (tmp_path / "out" / "index.json").is_file()


@pytest.mark.parametrize("archive", [False, True])
def test_a_full_disk_leaves_nothing_and_the_old_image(
    ape: Path, tmp_path: Path, archive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_image(ape, {}, ImageOptions("old"), out, archive=archive)
    before = Layout.of(out).files

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    reason = reason_of(partial(write_image, ape, {}, V1, out, archive=archive))
    assert reason == "ape-disk-full"
    assert Layout.of(out).files == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_there_is_an_error(ape: Path, tmp_path: Path) -> None:
    for archive in (False, True):
        reason = reason_of(partial(write_image, ape, {}, V1, tmp_path / "no" / "out", archive=archive))
        assert reason == "ape-output"


def test_a_model_that_changes_meanwhile_is_noticed(ape: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"GGUF" * 1000)

    @dataclass
    class Changing:
        """Another byte each time."""

        size: int = 4
        count: int = 0

        def chunks(self) -> Iterator[bytes]:
            self.count += 1
            yield b"GGU" + bytes([self.count])

    write = partial(write_image, ape, {"m.gguf": Changing()}, V1, tmp_path / "out", archive=True)
    assert reason_of(write) == "oci-changed"
    shorter = whole_file(path)
    path.write_bytes(b"GGUF")
    for archive in (False, True):
        write = partial(write_image, ape, {"m.gguf": shorter}, V1, tmp_path / "out", archive=archive)
        assert reason_of(write) == "oci-changed"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("victim", ["slices/linux-x86_64-v2", "build-info.json"])
def test_a_damaged_program_is_noticed(ape: Path, tmp_path: Path, victim: str) -> None:
    entry = next(one for one in read_container(ape).entries if one.name == victim)
    data = bytearray(ape.read_bytes())
    data[entry.offset + entry.packed // 2] ^= 1
    (tmp_path / "bad").write_bytes(data)
    assert reason_of(partial(write_image, tmp_path / "bad", {}, V1, tmp_path / "out")) == "ape-altered"
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_model_in_the_program_is_refused(tmp_path: Path) -> None:
    path = make_ape(tmp_path, {"model.gguf": b"GGUF"}, BODIES)
    assert reason_of(partial(write_image, path, {}, V1, tmp_path / "out")) == "oci-model-inside"


@pytest.mark.parametrize("name", [".wh.model.gguf", ".wh..wh..opq", "ui/.wh.index.html", ".wh.ui/index.html"])
def test_a_name_that_would_remove_a_file_is_refused(ape: Path, tmp_path: Path, name: str) -> None:
    assert reason_of(partial(write_image, ape, {name: Bytes(b"")}, V1, tmp_path / "out")) == "oci-name"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../mmojo-server", "a//b", "a/../../b"])
def test_a_name_that_leads_out_is_refused(ape: Path, tmp_path: Path, name: str) -> None:
    assert reason_of(partial(write_image, ape, {name: Bytes(b"")}, V1, tmp_path / "out")) == "ape-spec"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tag", ["", "-x", "a b", "ä", "a/b", "x" * 129, "latest\n"])
def test_a_tag_is_one_that_registries_take(tag: str) -> None:
    assert reason_of(partial(ImageOptions, tag)) == "oci-tag"


def test_a_file_without_linux_has_no_image(tmp_path: Path) -> None:
    path = make_ape(tmp_path, {}, {"windows-x86_64": b"w", "macos-aarch64": b"m"})
    assert reason_of(partial(write_image, path, {}, V1, tmp_path / "out")) == "oci-no-platform"


def test_a_file_for_one_machine_has_an_image_for_it(tmp_path: Path) -> None:
    done = write_image(make_ape(tmp_path, {}, {"linux-aarch64": b"arm"}), {}, V1, tmp_path / "out")
    assert done.platforms == ("linux/arm64",)


def test_what_is_no_ape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no").write_bytes(b"\x7fELF" + bytes(100))
    assert reason_of(partial(write_image, tmp_path / "no", {}, V1, tmp_path / "out")) == "ape-not-an-ape"


def test_too_many_models_are_refused(ape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_LAYERS", 3)
    assert reason_of(partial(write_image, ape, support(), V1, tmp_path / "out")) == "oci-too-many-layers"


@pytest.mark.parametrize("info", [b"no json", b"[1]", b'{"llama.cpp": {}}', b'{"llama.cpp": 3}'])
def test_build_info_that_says_nothing_does_no_harm(tmp_path: Path, info: bytes) -> None:
    done = write_image(make_ape(tmp_path, {"build-info.json": info}, BODIES), {}, V1, tmp_path / "out")
    for manifest in Layout.of(done.path).manifests().values():
        assert manifest["annotations"] == {"org.opencontainers.image.title": "sample"}


def test_the_command_runs_from_source_with_the_standard_library_alone(ape: Path, tmp_path: Path) -> None:
    """As a build sandbox has it: the package's source, and nothing that was installed."""
    package = Path(images.__file__).parents[2]
    shutil.copytree(package / "ape", tmp_path / "mmojo_forge" / "ape")
    shutil.copy(package / "errors.py", tmp_path / "mmojo_forge")

    order = {"program": str(ape), "models": []}
    (tmp_path / "order.json").write_text(json.dumps(order))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-B", "-m", "mmojo_forge.ape", "image", "order.json", "out", *arguments]
        return subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, text=True, capture_output=True, check=False)

    done = run("--tag", "v1", "--argument=--jinja")
    assert done.returncode == 0, done.stderr
    expected = write_image(ape, {}, V1, tmp_path / "expected").digest
    assert Layout.of(tmp_path / "out").reference["digest"] == expected
    bad = run("--tag", "a b")
    assert (bad.returncode, "oci-tag" in bad.stderr) == (2, True)
