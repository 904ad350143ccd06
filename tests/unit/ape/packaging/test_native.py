"""Native copies of one slice, what a signature changes, and everything taken out at once."""

from __future__ import annotations

import itertools
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.format import pe
from mmojo_forge.ape.packaging.native import take_slice
from mmojo_forge.ape.read.container import describe, read_container
from mmojo_forge.ape.read.extract import extract, extract_all
from mmojo_forge.ape.read.program import ProgramKind, read_program
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.spec import Asset
from tests.support.ape_samples import make_pe, make_slice
from tests.support.ape_samples.gguf import write_sparse
from tests.support.ape_samples.packages import (
    SLICES,
    files_below,
    files_in,
    make_folder,
    make_model,
    make_server,
    named,
    package,
    write,
)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "given" / "server")


@pytest.fixture
def packaged(server: Path, tmp_path: Path) -> Path:
    given = tmp_path / "given"
    order: dict[str, Any] = {
        "models": (named(make_model(given / "m.gguf")),),
        "args": named(write(given / "args", "--port 1\n")),
        "ui": make_folder(given / "page", "index.html"),
    }
    return package(server, given / "x.ape", **order)[0].path


@pytest.mark.parametrize(
    ("system", "level", "slice_name", "kind"),
    [
        ("linux-x86_64", "", "linux-x86_64/v2", ProgramKind.ELF),
        ("linux-x86_64", "v3", "linux-x86_64/v3", ProgramKind.ELF),
        ("windows-x86_64", "", "windows-x86_64", ProgramKind.PE),
    ],
)
def test_a_slice_becomes_a_program_with_all_that_the_ape_has(
    packaged: Path, tmp_path: Path, system: str, level: str, slice_name: str, kind: ProgramKind
) -> None:
    taken = take_slice(packaged, system, tmp_path / "native", level=level)
    data = taken.path.read_bytes()
    own = make_slice(system, SLICES[slice_name])
    assert data[: len(own)] == own
    assert len(data) == taken.size
    assert taken.slice == slice_name.replace("/", "-")
    assert taken.beside == ()
    assert files_in(taken.path) == files_in(packaged)
    found = read_program(taken.path)
    assert (found.kind, found.system) == (kind, system)
    assert next(entry for entry in found.assets if entry.name == "m.gguf").mappable
    assert os.access(taken.path, os.X_OK)


def test_a_slice_without_files_is_the_slice(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server", pages=())
    bare = package(server, tmp_path / "bare.ape", remove=("build-info.json",))[0].path
    taken = take_slice(bare, "linux-x86_64", tmp_path / "native", level="v3")
    assert taken.path.read_bytes() == make_slice("linux-x86_64", SLICES["linux-x86_64/v3"])


def test_for_macos_everything_lies_beside_the_program(packaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "mac"
    out.mkdir()
    taken = take_slice(packaged, "macos-aarch64", out / "server")
    found = files_below(out)
    assert found.pop("server") == make_slice("macos-aarch64", SLICES["macos-aarch64"])
    support = {name.removeprefix("mmojo-server-support/"): data for name, data in found.items()}
    assert set(support) == set(taken.beside) == set(files_in(packaged))
    assert support["build-info.json"] == files_in(packaged)["build-info.json"]
    options, given = head.split_head(support["mmojo-server-args"])
    assert options == {"--model": "/support/m.gguf", "--ui-page": "custom"}
    assert given == b"--port 1\n"


def test_what_cannot_be_taken_is_refused(server: Path, tmp_path: Path) -> None:
    for system, level in (("linux-riscv64", ""), ("linux-x86_64", "v9"), ("macos-x86_64", "")):
        with pytest.raises(ApeError) as caught:
            take_slice(server, system, tmp_path / "out", level=level)
        assert caught.value.reason == "ape-no-entry"
        assert "linux-x86_64-v3" in caught.value.detail
    native = write(tmp_path / "native.exe", make_pe())
    with pytest.raises(ApeError) as caught:
        take_slice(native, "windows-x86_64", tmp_path / "out")
    assert caught.value.reason == "ape-foreign"
    with pytest.raises(ApeError) as caught:
        take_slice(server, "linux-x86_64", tmp_path / "missing" / "out")
    assert caught.value.reason == "ape-output"
    assert not (tmp_path / "out").exists()


def test_a_program_for_windows_is_not_made_too_large_to_start(server: Path, tmp_path: Path) -> None:
    model = write_sparse(tmp_path / "m.gguf", 5 << 30)
    if model.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("this file system has no sparse files")
    packaged = package(server, tmp_path / "x.ape", models=(named(model),))[0].path
    with pytest.raises(ApeError) as caught:
        take_slice(packaged, "windows-x86_64", tmp_path / "x.exe")
    assert caught.value.reason == "ape-output"
    assert not (tmp_path / "x.exe").exists()


def sign(path: Path, out: Path, size: int = 1500) -> Path:
    """What an Authenticode signer does to a file: its checksum, its security directory, data behind its end."""
    data = bytearray(path.read_bytes())
    start = pe.HEADERS_AT if data.startswith(b"MZqFpD") else int.from_bytes(data[0x3C:0x40], "little")
    data += bytes(-len(data) % 8)
    struct.pack_into("<I", data, start + 24 + 64, 0x12345678)
    struct.pack_into("<II", data, start + 24 + 112 + 8 * 4, len(data), size)
    return write(out, bytes(data) + struct.pack("<IHH", size, 0x200, 2).ljust(size, b"\x30"))


@pytest.mark.parametrize("padding", range(8))
def test_a_signed_file_is_read_as_if_it_were_not(server: Path, tmp_path: Path, padding: int) -> None:
    args = named(write(tmp_path / "args", "-" * padding))
    plain = package(server, tmp_path / "x.ape", args=args)[0].path
    signed = sign(plain, tmp_path / "signed.ape")
    found = read_container(signed, verify=True)
    assert found.verified
    assert found.entries == read_container(plain).entries
    assert found.pe is not None and found.pe.signature is not None
    assert describe(found)["pe"]["signature"]["size"] == 1500
    assert files_in(signed) == files_in(plain)
    with zipfile.ZipFile(signed) as archive:
        assert archive.testzip() is None


def test_packaging_a_signed_program_takes_the_signature_off(server: Path, tmp_path: Path) -> None:
    model = named(make_model(tmp_path / "m.gguf"))
    signed = sign(server, tmp_path / "signed.ape")
    made = package(signed, tmp_path / "a.ape", models=(model,))[0].path
    assert made.read_bytes() == package(server, tmp_path / "b.ape", models=(model,))[0].path.read_bytes()
    native = write(tmp_path / "n.exe", make_pe())
    made = package(sign(native, tmp_path / "signed.exe"), tmp_path / "c.exe", models=(model,))[0].path
    assert made.read_bytes() == package(native, tmp_path / "d.exe", models=(model,))[0].path.read_bytes()
    again = package(sign(made, tmp_path / "signed-2.exe"), tmp_path / "e.exe", name="")[0].path
    assert read_program(again).pe is not None


def test_a_signed_program_stays_signed_in_a_folder(server: Path, tmp_path: Path) -> None:
    signed = sign(server, tmp_path / "signed.ape")
    found = files_below(package(signed, tmp_path / "x", ("folder",))[0].path)
    assert found["x"] == found["x.exe"] == signed.read_bytes()


def test_nothing_is_appended_to_a_signed_file(server: Path, tmp_path: Path) -> None:
    signed = sign(server, tmp_path / "signed.ape")
    before = signed.read_bytes()
    with pytest.raises(ApeError) as caught:
        append(signed, [Asset("x", server)])
    assert caught.value.reason == "ape-signed"
    assert signed.read_bytes() == before


@pytest.mark.parametrize(
    ("size", "cut", "more"), [(70000, 0, b""), (1500, 1, b""), (1500, 0, b"x"), (1500, 1500, b""), (1500, 9, b"")]
)
def test_a_signature_that_is_not_where_it_should_be_is_no_excuse(
    server: Path, tmp_path: Path, size: int, cut: int, more: bytes
) -> None:
    data = sign(server, tmp_path / "signed.ape", size).read_bytes()
    broken = write(tmp_path / "broken.ape", data[: len(data) - cut] + more)
    with pytest.raises(ApeError) as caught:
        read_container(broken)
    assert caught.value.reason == "ape-truncated"


def test_other_changes_of_a_signed_front_are_noticed(server: Path, tmp_path: Path) -> None:
    data = bytearray(sign(server, tmp_path / "signed.ape").read_bytes())
    data[pe.HEADERS_AT + 24 + 16] ^= 1
    with pytest.raises(ApeError) as caught:
        read_container(write(tmp_path / "broken.ape", bytes(data)), verify=True)
    assert caught.value.reason == "ape-altered"


def test_everything_can_be_taken_out_at_once(packaged: Path, tmp_path: Path) -> None:
    made = extract_all(packaged, tmp_path / "all")
    found = files_below(tmp_path / "all")
    assert {one.entry: one.size for one in made} == {name: len(data) for name, data in found.items()}
    assert found["slices/linux-x86_64-v3"] == make_slice("linux-x86_64", SLICES["linux-x86_64/v3"])
    assert {name: found[name] for name in files_in(packaged)} == files_in(packaged)
    assert os.access(tmp_path / "all" / "slices" / "windows-x86_64", os.X_OK)
    assert not os.access(tmp_path / "all" / "m.gguf", os.X_OK)
    (tmp_path / "empty").mkdir()
    extract_all(packaged, tmp_path / "empty")
    assert files_below(tmp_path / "empty") == found


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped", "a\\b", "a//b", "./a", "a\nb"])
def test_an_entry_that_would_land_elsewhere_is_not_taken_out(server: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(server, "a") as archive:
        archive.writestr("before", b"x")
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(ApeError) as caught:
        extract_all(server, tmp_path / "all")
    assert caught.value.reason == "ape-name"
    assert not (tmp_path / "all").exists()
    assert not (tmp_path / "escaped").exists()
    extract(server, name, tmp_path / "by-name")
    assert (tmp_path / "by-name").read_bytes() == b"x"


def test_a_folder_that_is_in_use_is_left_alone(packaged: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "used", "file")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path / "used", tmp_path / "used" / "file", tmp_path / "link"):
        with pytest.raises(ApeError) as caught:
            extract_all(packaged, folder)
        assert caught.value.reason == "ape-output"
    assert files_below(tmp_path / "used") == {"file": b"file"}


def test_a_bad_entry_ends_the_taking_out_and_leaves_nothing(packaged: Path, tmp_path: Path) -> None:
    entry = next(entry for entry in read_program(packaged).assets if entry.name == "m.gguf")
    data = bytearray(packaged.read_bytes())
    data[entry.offset + entry.size - 1] ^= 1
    bad = write(tmp_path / "bad.ape", bytes(data))
    with pytest.raises(ApeError) as caught:
        extract_all(bad, tmp_path / "all")
    assert caught.value.reason == "ape-altered"
    assert sorted(os.listdir(tmp_path)) == ["bad.ape", "given"]
    with pytest.raises(ApeError) as caught:
        package(bad, tmp_path / "x", ("folder",))
    assert caught.value.reason == "ape-altered"
    assert sorted(os.listdir(tmp_path)) == ["bad.ape", "given"]


def test_containers_of_all_kinds_say_what_they_are(packaged: Path, tmp_path: Path) -> None:
    kinds = []
    for number, system in enumerate(("linux-x86_64", "windows-x86_64")):
        facts = describe(read_container(take_slice(packaged, system, tmp_path / str(number)).path, verify=True))
        kinds.append((facts["kind"], facts["system"], facts["slices"]))
        assert {entry["name"]: entry["mappable"] for entry in facts["entries"]}["m.gguf"]
    assert kinds == [("elf", "linux-x86_64", []), ("pe", "windows-x86_64", [])]
    assert describe(read_container(packaged))["kind"] == "ape"
    for one, other in itertools.pairwise(read_container(packaged).entries):
        assert one.offset + one.packed <= other.head
