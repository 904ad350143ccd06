"""GPU modules in packages: where they go, and what is refused."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.packaging.package import warnings_of
from mmojo_forge.ape.read.executable import read_note
from tests.support.ape_samples.modules import make_elf, make_hosts, make_module
from tests.support.ape_samples.packages import files_below, files_in, make_server, package, plan

PLACE = "modules/linux-x86_64"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "given")


def reason(server: Path, *modules: NamedFile) -> str:
    with pytest.raises(ApeError) as caught:
        package(server, server.parent / "out.ape", modules=modules)
    return caught.value.reason


def test_they_lie_inside_with_their_sums(tmp_path: Path, server: Path) -> None:
    modules = make_module(tmp_path / "m"), make_hosts(tmp_path / "h")
    package(server, tmp_path / "out.ape", modules=modules)
    found = files_in(tmp_path / "out.ape")
    here = {name.removeprefix(f"{PLACE}/") for name in found if name.startswith(PLACE)}
    assert here == {
        *(f"ggml-test/{name}" for name in ("libggml-test.so", "libmath.so.1", "SHA256SUMS")),
        *(f"host/{name}" for name in ("mmojo-server-v2", "mmojo-server-v3", "SHA256SUMS")),
    }
    sums = dict(line.split("  ")[::-1] for line in found[f"{PLACE}/ggml-test/SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256((tmp_path / "m" / name).read_bytes()).hexdigest()
        for name in ("libggml-test.so", "libmath.so.1")
    }


def test_in_a_folder_they_lie_beside(tmp_path: Path, server: Path) -> None:
    modules = make_module(tmp_path / "m"), make_hosts(tmp_path / "h")
    package(server, tmp_path / "out", ["folder"], modules=modules)
    found = files_below(tmp_path / "out")
    assert f"mmojo-server-support/{PLACE}/ggml-test/libggml-test.so" in found
    host = tmp_path / "out" / "mmojo-server-support" / PLACE / "host" / "mmojo-server-v3"
    assert host.stat().st_mode & 0o111


def test_an_image_has_none_and_says_so(tmp_path: Path, server: Path) -> None:
    modules = make_module(tmp_path / "m"), make_hosts(tmp_path / "h")
    package(server, tmp_path / "with.ape", modules=modules)
    for program, given in ((server, modules), (tmp_path / "with.ape", ())):
        plans = plan(program, tmp_path / "out", ("ape", "oci"), modules=given)
        inside, image = plans
        assert any(names.is_module(item.name) for item in inside.layout.inside)
        assert not any(names.is_module(item.name) for item in (*image.layout.inside, *image.layout.beside))
        assert [one for one in warnings_of(plans) if "no glibc" in one]
    assert not warnings_of(plan(server, tmp_path / "out", ("oci",)))


def test_a_module_that_is_given_again_replaces_all_of_the_old_one(tmp_path: Path, server: Path) -> None:
    old, new = make_module(tmp_path / "old"), make_module(tmp_path / "new")
    (new.path / "libmath.so.1").unlink()
    package(server, tmp_path / "out.ape", modules=(old,))
    package(tmp_path / "out.ape", tmp_path / "out.ape", modules=(new,))
    assert f"{PLACE}/ggml-test/libmath.so.1" not in files_in(tmp_path / "out.ape")


def test_one_for_another_ggml_than_the_rest_is_refused(tmp_path: Path, server: Path) -> None:
    assert reason(server, make_module(tmp_path / "m", version="new"), make_hosts(tmp_path / "h")) == "ape-module"
    one, other = make_module(tmp_path / "a"), make_module(tmp_path / "b", "ggml-other", "new")
    assert reason(server, one, other) == "ape-module"


def test_one_for_another_ggml_than_the_program_is_refused(tmp_path: Path) -> None:
    told = make_server(tmp_path / "told", info='{"ggml": {"abi": "abc"}}')
    package(told, tmp_path / "out.ape", modules=(make_module(tmp_path / "m"), make_hosts(tmp_path / "h")))
    other = make_module(tmp_path / "a", version="new"), make_hosts(tmp_path / "b", "new")
    assert reason(told, *other) == "ape-module"
    for info in ("", "[]", '{"ggml": 1}', '{"ggml": {}}'):
        untold = make_server(tmp_path / f"untold{info}", info=info)
        package(untold, tmp_path / "out.ape", modules=other)


def test_one_for_another_ggml_than_a_program_for_glibc_is_refused(tmp_path: Path) -> None:
    program = make_elf(tmp_path / "mmojo-server", "ggml=abc\nneeds=\n")
    package(program, tmp_path / "out", modules=(make_module(tmp_path / "m"),))
    assert reason(program, make_module(tmp_path / "a", version="new")) == "ape-module"


def test_one_that_says_nothing_of_its_ggml_is_refused(tmp_path: Path, server: Path) -> None:
    module = make_module(tmp_path / "m")
    for text, owner in ((None, b"mmojo\0"), ("ggml=abc\n", b"GNU\0"), ("needs=x\n", b"mmojo\0")):
        make_elf(module.path / "libggml-test.so", text, owner=owner)
        assert reason(server, module) == "ape-module"


@pytest.mark.parametrize("size", [0, 10, 64, 100, 119, 130])
def test_one_that_is_cut_short_is_refused(tmp_path: Path, server: Path, size: int) -> None:
    module = make_module(tmp_path / "m")
    library = module.path / "libggml-test.so"
    library.write_bytes(library.read_bytes()[:size])
    assert reason(server, module) == "ape-module"


def test_a_folder_without_a_module_is_refused(tmp_path: Path, server: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert reason(server, NamedFile("ggml-test", tmp_path / "empty")) == "ape-module"
    assert reason(server, NamedFile("host", tmp_path / "empty")) == "ape-module"
    assert reason(server, NamedFile("ggml-test", tmp_path / "nowhere")) == "ape-module"


def test_folders_in_a_module_and_two_modules_in_a_folder_are_refused(tmp_path: Path, server: Path) -> None:
    module = make_module(tmp_path / "m")
    (module.path / "below").mkdir()
    (module.path / "below" / "file").write_bytes(b"")
    assert reason(server, module) == "ape-module"
    two = make_module(tmp_path / "two")
    make_module(two.path, "ggml-other")
    assert reason(server, two) == "ape-module"


def test_a_note_is_read_wherever_it_stands(tmp_path: Path) -> None:
    path = make_elf(tmp_path / "a", "ggml=1\nneeds=lib.so\ndriver=13000\nodd\n")
    assert read_note(path, "read") == {"ggml": "1", "needs": "lib.so", "driver": "13000"}
    assert read_note(make_elf(tmp_path / "b", None), "read") == {}


@pytest.mark.parametrize("offset", [121, 1 << 62, (1 << 64) - 8])
def test_a_note_that_is_said_to_lie_outside_is_refused(tmp_path: Path, server: Path, offset: int) -> None:
    module = make_module(tmp_path / "a")
    library = module.path / "libggml-test.so"
    data = bytearray(library.read_bytes())
    struct.pack_into("<Q", data, 64 + 8, offset)
    library.write_bytes(data)
    assert reason(server, module) == "ape-module"
