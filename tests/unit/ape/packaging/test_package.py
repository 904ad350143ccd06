"""Packaging: what goes where, what stays and what is replaced, and that the same order gives the same bytes."""

from __future__ import annotations

import itertools
import os
import random
import stat
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.format.layout import BLOCK
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.packaging.package import write_package
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.read.program import ProgramKind, read_program
from tests.support.ape_samples import make_elf, make_macho, make_pe
from tests.support.ape_samples.packages import (
    files_below,
    files_in,
    make_folder,
    make_model,
    make_server,
    named,
    package,
    plan,
    write,
)

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path / "server")


@pytest.fixture
def everything(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "given"
    return {
        "name": "hello",
        "models": (named(make_model(folder / "m.gguf")),),
        "mmproj": named(make_model(folder / "see.gguf", architecture="clip")),
        "args": named(write(folder / "my-args", "--port 1\r\n")),
        "ui": make_folder(folder / "page", "index.html", "js/a.js"),
        "cert": write(folder / "c.pem", CERTIFICATE),
        "key": write(folder / "k.pem", KEY),
        "files": (named(make_folder(folder / "docs", "a.txt", "deep/b.txt")), NamedFile("x/run", folder / "my-args")),
    }


def head_of(program: Path) -> dict[str, str]:
    return dict(head.split_head(files_in(program)[head.NAME])[0])


def test_everything_goes_into_one_file_that_is_still_the_program(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    (product,) = package(server, tmp_path / "hello.ape", **everything)
    whole, before = product.path.read_bytes(), server.read_bytes()
    end = read_program(server).end
    assert whole[:end] == before[:end]
    assert product.size == len(whole)
    assert stat.S_IMODE(product.path.stat().st_mode) == 0o755
    assert read_container(product.path, verify=True).slices == read_container(server).slices
    found = files_in(product.path)
    assert list(found) == sorted(found)
    assert found["m.gguf"] == everything["models"][0].path.read_bytes()
    assert found["ui/custom/js/a.js"] == b"js/a.js"
    assert (found["certs/server.crt"], found["certs/server.key"]) == (CERTIFICATE, KEY)
    assert found["docs/deep/b.txt"] == b"deep/b.txt"
    assert found["ui/chat/index.html"].startswith(b"ui/chat")
    assert found["mmojo-server-args"].endswith(b"-\n--port 1\r\n")
    assert head_of(product.path) == {
        "--model": "/zip/m.gguf",
        "--mmproj": "/zip/see.gguf",
        "--ui-page": "custom",
        "--ssl-cert-file": "/zip/certs/server.crt",
        "--ssl-key-file": "/zip/certs/server.key",
        "--alias": "hello",
    }
    with zipfile.ZipFile(product.path) as archive:
        assert archive.testzip() is None


def test_models_are_stored_at_64_kibibytes_and_nothing_that_is_added_is_compressed(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    everything["files"] += (NamedFile("lora/a.gguf", make_model(tmp_path / "a.gguf")),)
    (product,) = package(server, tmp_path / "hello.ape", **everything)
    added = [entry for entry in read_program(product.path).assets if not entry.deflated]
    models = [entry for entry in added if entry.name.endswith(".gguf")]
    assert sorted(entry.name for entry in models) == ["lora/a.gguf", "m.gguf", "see.gguf"]
    assert all(entry.offset % BLOCK == 0 for entry in models)
    assert {entry.name for entry in read_program(product.path).assets if entry.deflated} == {
        "build-info.json",
        "ui/chat/index.html",
        "ui/complete/index.html",
    }


def test_the_same_order_elsewhere_and_later_gives_the_same_bytes(server: Path, tmp_path: Path) -> None:
    made = []
    for number, folder in enumerate((tmp_path / "one", tmp_path / "a longer name")):
        names = ["index.html", *(f"{letter}.js" for letter in "zyxwvu")]
        random.Random(number).shuffle(names)
        page = make_folder(folder / "page", *names)
        model = make_model(folder / "m.gguf")
        for path in folder.rglob("*"):
            os.utime(path, (number * 1e8, number * 1e8))
        order: dict[str, Any] = {"models": (named(model),), "ui": page, "files": (NamedFile("d", page),)}
        package(server, folder / "x.ape", ("ape", "exe", "folder", "zip"), **order)
        made.append(files_below(folder))
    assert made[0] == made[1]


def test_packaging_a_packaged_program_again_gives_the_bytes_that_the_fresh_one_would_have_given(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    once = package(server, tmp_path / "once.ape", **everything)[0].path
    twice = package(once, tmp_path / "twice.ape", **everything)[0].path
    assert twice.read_bytes() == once.read_bytes()
    again = package(once, once, **everything)[0].path
    assert again.read_bytes() == twice.read_bytes()
    assert package(once, tmp_path / "nothing.ape")[0].path.read_bytes() == once.read_bytes()


def test_whatever_was_packed_before_new_things_take_their_place(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    first = package(
        server,
        tmp_path / "first.ape",
        models=(named(make_model(other / "older.gguf")), named(make_model(other / "second.gguf"))),
        args=named(write(other / "args.yaml", "port: 2\n")),
        ui=make_folder(other / "page", "index.html", "old.css"),
        cert=write(other / "c", CERTIFICATE + b"older"),
        key=write(other / "k", KEY + b"older"),
    )[0].path
    assert set(files_in(first)) >= {"mmojo-server-args.yaml", "ui/custom/old.css", "second.gguf"}
    fresh = package(server, tmp_path / "fresh.ape", **everything)[0].path
    over = package(first, tmp_path / "over.ape", **everything)[0].path
    assert over.read_bytes() == fresh.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_the_parts_may_be_given_one_after_the_other(server: Path, tmp_path: Path, size: int) -> None:
    parts: dict[str, Any] = {
        "models": (named(make_model(tmp_path / "m.gguf")),),
        "args": named(write(tmp_path / "args", "--port 1\n")),
        "ui": make_folder(tmp_path / "page", "index.html"),
        "files": (NamedFile("zzz", tmp_path / "args"),),
    }
    whole = package(server, tmp_path / "whole.ape", **parts)[0].path.read_bytes()
    for number, order in enumerate(itertools.permutations(parts)):
        if number % 4 != size:
            continue
        at = server
        for name in order:
            at = package(at, tmp_path / "step.ape", **{name: parts[name]})[0].path
        assert at.read_bytes() == whole, order


def test_what_is_not_given_anew_stays(server: Path, everything: dict[str, Any], tmp_path: Path) -> None:
    first = package(server, tmp_path / "first.ape", **everything)[0].path
    args = named(write(tmp_path / "new-args", "--port 7\n"))
    second = package(first, tmp_path / "second.ape", args=args)[0].path
    before, after = files_in(first), files_in(second)
    assert head_of(second) == head_of(first)
    assert after.pop(head.NAME).endswith(b"-\n--port 7\n")
    before.pop(head.NAME)
    assert after == before
    cleared = package(second, tmp_path / "cleared.ape", clear=True)[0].path
    assert files_in(cleared)[head.NAME].endswith(b"--alias hello\n")


def test_a_page_of_the_program_takes_the_place_of_a_packed_one(server: Path, tmp_path: Path) -> None:
    first = package(server, tmp_path / "a.ape", ui=make_folder(tmp_path / "page", "index.html", "a.css"))[0].path
    assert head_of(first) == {"--ui-page": "custom"}
    second = package(first, tmp_path / "b.ape", page="complete")[0].path
    assert head_of(second) == {"--ui-page": "complete"}
    assert not [name for name in files_in(second) if name.startswith("ui/custom/")]
    assert second.read_bytes() == package(server, tmp_path / "c.ape", page="complete")[0].path.read_bytes()
    third = package(second, tmp_path / "d.ape", name="x")[0].path
    assert head_of(third) == {"--ui-page": "complete", "--alias": "x"}


def test_the_page_that_was_packed_may_be_named(server: Path, tmp_path: Path) -> None:
    first = package(server, tmp_path / "a.ape", ui=make_folder(tmp_path / "page", "index.html"))[0].path
    assert package(first, tmp_path / "b.ape", page="custom")[0].path.read_bytes() == first.read_bytes()


def test_files_and_folders_can_be_left_out(server: Path, tmp_path: Path) -> None:
    made = package(server, tmp_path / "a.ape", remove=("ui/complete", "build-info.json"))[0].path
    assert list(files_in(made)) == ["ui/chat/index.html"]
    assert read_container(made, verify=True).verified


def test_a_new_model_without_a_projector_leaves_the_old_projector_out(server: Path, tmp_path: Path) -> None:
    model, other = make_model(tmp_path / "m.gguf"), make_model(tmp_path / "n.gguf")
    see, hear = (make_model(tmp_path / name, architecture="clip") for name in ("see.gguf", "hear.gguf"))
    first = package(server, tmp_path / "a.ape", models=(named(model),), mmproj=named(see))[0].path
    assert head_of(package(first, tmp_path / "b.ape", models=(named(other),))[0].path) == {"--model": "/zip/n.gguf"}
    third = package(first, tmp_path / "c.ape", mmproj=named(hear))[0].path
    assert head_of(third) == {"--model": "/zip/m.gguf", "--mmproj": "/zip/hear.gguf"}
    assert "see.gguf" not in files_in(third)


def test_all_parts_of_a_split_model_are_packed(server: Path, tmp_path: Path) -> None:
    parts = [
        make_model(tmp_path / f"m-{number:05}-of-00003.gguf", values={"split.no": number - 1, "split.count": 3})
        for number in (1, 2, 3)
    ]
    made = package(server, tmp_path / "a.ape", models=(named(parts[0]),))[0].path
    assert [name for name in files_in(made) if name.endswith(".gguf")] == [path.name for path in parts]
    assert head_of(made) == {"--model": "/zip/m-00001-of-00003.gguf"}
    assert package(server, tmp_path / "b.ape", models=tuple(named(path) for path in parts))[0].path.read_bytes() == (
        made.read_bytes()
    )


def test_names_that_need_quotes_get_them(server: Path, tmp_path: Path) -> None:
    made = package(server, tmp_path / "a.ape", models=(named(make_model(tmp_path / "my 'big' model.gguf")),))[0].path
    assert head_of(made) == {"--model": "/zip/my 'big' model.gguf"}


def test_arguments_in_yaml_stay_in_a_file_of_their_own(server: Path, tmp_path: Path) -> None:
    args = named(write(tmp_path / "a.yml", b"\xef\xbb\xbfport: 1\r\n"))
    made = package(server, tmp_path / "a.ape", args=args, models=(named(make_model(tmp_path / "m.gguf")),))[0].path
    assert files_in(made)["mmojo-server-args.yaml"] == b"\xef\xbb\xbfport: 1\r\n"
    assert head.split_head(files_in(made)[head.NAME]) == ({"--model": "/zip/m.gguf"}, b"")


def test_the_twin_for_windows_is_the_same_file(server: Path, tmp_path: Path) -> None:
    one, other = package(server, tmp_path / "hello.ape", ("exe", "ape"))
    assert (one.path.name, other.path.name) == ("hello.ape", "hello.exe")
    assert one.path.stat().st_ino == other.path.stat().st_ino
    (alone,) = package(server, tmp_path / "alone.ape", ("exe",))
    assert alone.path.name == "alone.exe"
    assert alone.path.read_bytes() == one.path.read_bytes()
    assert not (tmp_path / "alone.ape").exists()


def test_a_folder_has_the_program_as_it_was_and_all_else_beside_it(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    (product,) = package(server, tmp_path / "hello", ("folder",), **everything)
    found = files_below(product.path)
    assert found["hello"] == found["hello.exe"] == server.read_bytes()
    support = {name.removeprefix("mmojo-server-support/"): data for name, data in found.items() if "/" in name}
    assert set(support) == {
        "mmojo-server-args",
        "m.gguf",
        "see.gguf",
        "certs/server.crt",
        "certs/server.key",
        "ui/custom/index.html",
        "ui/custom/js/a.js",
        "docs/a.txt",
        "docs/deep/b.txt",
        "x/run",
    }
    assert head.split_head(support["mmojo-server-args"])[0] == {
        "--model": "/support/m.gguf",
        "--mmproj": "/support/see.gguf",
        "--ui-page": "custom",
        "--ssl-cert-file": "/support/certs/server.crt",
        "--ssl-key-file": "/support/certs/server.key",
        "--alias": "hello",
    }
    assert dict(product.files) == {name: len(data) for name, data in found.items()}
    assert (product.path / "hello").stat().st_mode & 0o111
    assert not (product.path / "mmojo-server-support" / "m.gguf").stat().st_mode & 0o111


def test_a_zip_is_that_folder(server: Path, everything: dict[str, Any], tmp_path: Path) -> None:
    folder, archive = package(server, tmp_path / "hello.ape", ("folder", "zip"), **everything)
    assert (folder.path.name, archive.path.name) == ("hello", "hello.zip")
    assert archive.size == archive.path.stat().st_size
    with zipfile.ZipFile(archive.path) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == sorted(opened.namelist())
        packed = {name.removeprefix("hello/"): opened.read(name) for name in opened.namelist()}
        modes = {info.filename: info.external_attr >> 16 for info in opened.infolist()}
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
    assert packed == files_below(folder.path)
    assert modes["hello/hello"] == modes["hello/hello.exe"] == 0o100755
    assert modes["hello/mmojo-server-support/m.gguf"] == 0o100644


def test_what_a_packaged_program_has_lies_beside_it_in_a_folder(
    server: Path, everything: dict[str, Any], tmp_path: Path
) -> None:
    everything.pop("files")
    once = package(server, tmp_path / "once.ape", **everything)[0].path
    fresh = package(server, tmp_path / "fresh", ("folder",), **everything)
    again = package(once, tmp_path / "again", ("folder",), name="hello")
    assert files_below(again[0].path) == files_below(fresh[0].path)


def test_a_package_in_a_folder_is_replaced_as_a_whole(server: Path, tmp_path: Path) -> None:
    model = named(make_model(tmp_path / "m.gguf"))
    package(server, tmp_path / "x", ("folder",), models=(model,), files=(NamedFile("old", model.path),))
    package(server, tmp_path / "x", ("folder",), models=(model,))
    assert sorted(files_below(tmp_path / "x")) == [
        "mmojo-server-support/m.gguf",
        "mmojo-server-support/mmojo-server-args",
        "x",
        "x.exe",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "server", "x"]


@pytest.mark.parametrize(("system", "kind"), [("linux-x86_64", ProgramKind.ELF), ("windows-x86_64", ProgramKind.PE)])
def test_a_native_program_takes_files_at_its_end(tmp_path: Path, system: str, kind: ProgramKind) -> None:
    data = make_elf(system) if kind is ProgramKind.ELF else make_pe()
    native = write(tmp_path / "native", data)
    model = named(make_model(tmp_path / "m.gguf"))
    args = named(write(tmp_path / "args", "--port 1\n"))
    once = package(native, tmp_path / "once", models=(model,), args=args)[0].path
    found = read_program(once)
    assert (found.kind, found.system, found.end) == (kind, system, len(data))
    assert once.read_bytes()[: len(data)] == data
    step = package(native, tmp_path / "step", models=(model,))[0].path
    assert package(step, tmp_path / "b", args=args)[0].path.read_bytes() == once.read_bytes()
    container = read_container(once, verify=True)
    assert (container.slices, container.system, container.kind) == ((), system, kind)


def test_a_native_program_keeps_its_name_in_a_folder(tmp_path: Path) -> None:
    windows = write(tmp_path / "server.exe", make_pe())
    assert sorted(files_below(package(windows, tmp_path / "w", ("folder",))[0].path)) == ["w.exe"]
    mac = write(tmp_path / "server", make_macho(b"x" * 999))
    model = named(make_model(tmp_path / "m.gguf"))
    found = files_below(package(mac, tmp_path / "m", ("folder",), models=(model,))[0].path)
    assert found["m"] == mac.read_bytes()
    assert set(found) == {"m", "mmojo-server-support/m.gguf", "mmojo-server-support/mmojo-server-args"}


def test_what_would_be_made_is_known_before_it_is(server: Path, everything: dict[str, Any], tmp_path: Path) -> None:
    formats = ("ape", "exe", "folder", "zip")
    planned = [one.product() for one in plan(server, tmp_path / "hello.ape", formats, **everything)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "server"]
    assert package(server, tmp_path / "hello.ape", formats, **everything) == planned
    assert planned[0].size == planned[0].path.stat().st_size
    assert planned[2].size == sum(size for name, size in planned[2].files if name != "hello.exe")


def test_progress_reaches_its_end_and_never_goes_back(server: Path, everything: dict[str, Any], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    planned = plan(server, tmp_path / "hello.ape", ("ape", "folder", "zip"), **everything)
    write_package(planned, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] <= told[-1][1]


def test_a_file_beside_which_a_program_was_killed_is_tidied_up(server: Path, tmp_path: Path) -> None:
    left = write(tmp_path / ".a.ape.99999999.tmp", "half")
    mine = write(tmp_path / f".a.ape.{os.getpid()}.tmp", "half")
    other = write(tmp_path / ".b.ape.99999999.tmp", "of another")
    package(server, tmp_path / "a.ape")
    assert not left.exists()
    assert not mine.exists()
    assert other.exists()


def test_a_page_of_a_thousand_files_is_packed_in_a_moment(server: Path, tmp_path: Path) -> None:
    page = make_folder(tmp_path / "page", "index.html", *(f"js/{number}.js" for number in range(1000)))
    started = time.monotonic()
    package(server, tmp_path / "a.ape", ui=page)
    assert time.monotonic() - started < 10


def test_an_ape_of_another_linker_takes_files_too(tmp_path: Path) -> None:
    """As Cosmopolitan's linker makes them: its zip has what the program needs, and all of it stays."""
    foreign = write(tmp_path / "foreign", b"MZqFpD='\n" + b"program" * 999)
    with zipfile.ZipFile(foreign, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".cosmo", b"")
        archive.writestr("usr/share/zoneinfo/UTC", b"TZif" * 100)
    model = named(make_model(tmp_path / "m.gguf"))
    made = package(foreign, tmp_path / "made", models=(model,))[0].path
    found = files_in(made)
    assert set(found) == {".cosmo", "usr/share/zoneinfo/UTC", "m.gguf", "mmojo-server-args"}
    assert found["usr/share/zoneinfo/UTC"] == b"TZif" * 100
    assert made.read_bytes().startswith(foreign.read_bytes()[: 9 + 7 * 999])
    assert next(entry for entry in read_program(made).assets if entry.name == "m.gguf").mappable
    assert files_in(package(made, tmp_path / "again", name="x")[0].path)["m.gguf"] == found["m.gguf"]
