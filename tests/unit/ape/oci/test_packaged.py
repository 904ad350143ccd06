"""Images of packages: what packaging gathered lies where the server in a container looks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.oci.image import Image, ImageOptions, measure_reading, write_packaged_image
from mmojo_forge.ape.packaging.contents import PackageContents, lay_out_for_image
from mmojo_forge.ape.packaging.gather import gather
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.package import write_package
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.spec import Asset
from mmojo_forge.errors import ForgeError
from tests.support.ape_samples import make_elf
from tests.support.ape_samples.packages import (
    files_in,
    make_folder,
    make_model,
    make_server,
    named,
    package,
    plan,
    write,
)
from tests.unit.ape.oci.test_image import Layout


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "server")


@pytest.fixture
def order(server: Path, tmp_path: Path) -> PackageOrder:
    folder = tmp_path / "given"
    return PackageOrder(
        server,
        name="hello",
        models=(named(make_model(folder / "m.gguf")),),
        mmproj=named(make_model(folder / "see.gguf", architecture="clip")),
        args=named(write(folder / "my-args", "-c 512\n")),
        ui=make_folder(folder / "page", "index.html"),
        files=(NamedFile("notes.txt", write(folder / "notes", "notes")),),
    )


def made(contents: PackageContents, out: Path, *, archive: bool = False) -> Image:
    return write_packaged_image(contents, ImageOptions(), out, lambda _: None, archive=archive)


def program_in(layout: Layout, to: Path) -> Path:
    to.write_bytes(layout.members(layout.manifests()["amd64"]["layers"][-1])["mmojo-server"][1])
    return to


def test_models_are_layers_and_the_rest_lies_in_the_program(order: PackageOrder, tmp_path: Path) -> None:
    layout = Layout.of(made(gather(order), tmp_path / "out").path)
    titles = [one["annotations"]["org.opencontainers.image.title"] for one in layout.manifests()["amd64"]["layers"]]
    assert titles == ["m.gguf", "see.gguf", "mmojo-server"]
    found = files_in(program_in(layout, tmp_path / "program"))
    assert {"ui/chat/index.html", "ui/custom/index.html", "notes.txt", "build-info.json"} <= set(found)
    assert not any(name.endswith(".gguf") for name in found)
    options, given = head.split_head(found[head.NAME])
    assert given == b"-c 512\n"
    assert (options["--model"], options["--mmproj"]) == ("/support/m.gguf", "/support/see.gguf")
    assert layout.manifests()["amd64"]["annotations"]["org.opencontainers.image.title"] == "hello"


def test_what_was_packaged_before_gives_the_same_image(order: PackageOrder, tmp_path: Path) -> None:
    first = made(gather(order), tmp_path / "first")
    fields = {name: getattr(order, name) for name in ("name", "models", "mmproj", "args", "ui", "files")}
    (product,) = package(order.program, tmp_path / "hello.ape", **fields)
    again = made(gather(PackageOrder(product.path)), tmp_path / "again.tar", archive=True)
    assert again.digest == first.digest
    assert Layout.of(again.path).files == Layout.of(first.path).files


@pytest.mark.parametrize("archive", [False, True])
def test_progress_ends_where_it_was_said_to(order: PackageOrder, tmp_path: Path, archive: bool) -> None:
    contents, told = gather(order), [0]

    def on_progress(count: int) -> None:
        told[0] += count

    write_packaged_image(contents, ImageOptions(), tmp_path / "out", on_progress, archive=archive)
    # What packaging writes itself, arguments and the zip's records, it does not tell of.
    assert 0 <= measure_reading(lay_out_for_image(contents), archive=archive) - told[0] < 65536


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ForgeError) as caught:
        call()
    return caught.value.reason


def test_a_model_that_was_replaced_since_it_was_looked_at_is_noticed(order: PackageOrder, tmp_path: Path) -> None:
    contents = gather(order)
    path = order.models[0].path
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert reason_of(partial(made, contents, tmp_path / "out")) == "oci-changed"
    path.unlink()
    assert reason_of(partial(made, contents, tmp_path / "out")) == "ape-input"
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_inside_is_noticed(server: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.gguf")
    (product,) = package(server, tmp_path / "hello.ape", models=(named(model),))
    data = bytearray(product.path.read_bytes())
    data[data.rindex(model.read_bytes()) + model.stat().st_size - 1] ^= 1
    product.path.write_bytes(data)
    contents = gather(PackageOrder(product.path))
    for archive in (False, True):
        assert reason_of(partial(made, contents, tmp_path / "out", archive=archive)) == "oci-changed"


def test_a_compressed_model_is_refused(server: Path, tmp_path: Path) -> None:
    append(server, [Asset("m.gguf", make_model(tmp_path / "m.gguf"))])
    assert reason_of(lambda: made(gather(PackageOrder(server)), tmp_path / "out")) == "ape-unmapped"


def test_a_folder_that_is_not_there_is_an_error(order: PackageOrder, tmp_path: Path) -> None:
    contents = gather(order)
    assert reason_of(partial(made, contents, tmp_path / "no" / "out")) == "ape-output"


def test_packaging_makes_images_beside_other_formats(order: PackageOrder, tmp_path: Path) -> None:
    first = made(gather(order), tmp_path / "first")
    fields = {name: getattr(order, name) for name in ("name", "models", "mmproj", "args", "ui", "files")}
    planned = plan(order.program, tmp_path / "x.ape", ("ape", "oci", "oci-tar"), **fields)
    told: list[tuple[int, int]] = []
    products = write_package(planned, lambda done, total: told.append((done, total)))
    assert [one.path.name for one in products] == ["x.ape", "x.oci", "x.oci.tar"]
    assert [one.digest for one in products] == ["", first.digest, first.digest]
    assert Layout.of(products[1].path).files == Layout.of(products[2].path).files == Layout.of(first.path).files
    assert products[2].size == products[2].path.stat().st_size
    assert 0 <= told[-1][1] - told[-1][0] < 200_000
    (alone,) = package(order.program, tmp_path / "other-name", ("oci",), **fields)
    assert (alone.path.name, alone.digest) == ("other-name", first.digest)


def test_what_is_in_an_images_place_or_runs_on_no_linux_is_refused_before_anything_is_read(
    server: Path, tmp_path: Path
) -> None:
    write(tmp_path / "there" / "file", "precious")
    assert reason_of(lambda: plan(server, tmp_path / "there", ("oci",))) == "oci-in-the-way"
    assert reason_of(lambda: plan(server, tmp_path / "no" / "out", ("oci-tar",))) == "ape-output"
    native = write(tmp_path / "native", make_elf("linux-x86_64"))
    assert reason_of(lambda: plan(native, tmp_path / "out", ("oci",))) == "ape-output"
