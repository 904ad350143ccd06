"""What cannot be packaged: an error with its reason before anything is written, and nothing lost."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.errors import ApeError, ArgumentFault, ArgumentsError
from mmojo_forge.ape.files.content import measure_bytes
from mmojo_forge.ape.packaging.order import NamedFile, read_order
from mmojo_forge.ape.read.program import read_program
from mmojo_forge.ape.write.entry_writer import EntryWriter, record_of
from mmojo_forge.errors import ForgeError
from tests.support.ape_samples import make_elf, make_macho
from tests.support.ape_samples.gguf import make_gguf
from tests.support.ape_samples.packages import (
    files_below,
    make_folder,
    make_model,
    make_server,
    named,
    package,
    plan,
    write,
)

PEM = b"-----BEGIN %s-----\nAAAA\n-----END %s-----\n"


@dataclass
class Place:
    folder: Path
    server: Path
    out: Path

    def refuse(self, reason: str, formats: tuple[str, ...] = ("ape",), **order: Any) -> ForgeError:
        """Packaging fails for this reason, when it is planned; what is there stays as it is."""
        before = files_below(self.folder)
        program = order.pop("program", self.server)
        out = order.pop("out", self.out)
        with pytest.raises(ForgeError) as caught:
            plan(program, out, formats, **order)
        assert caught.value.reason == reason, caught.value
        assert files_below(self.folder) == before
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    server = make_server(tmp_path / "server")
    return Place(tmp_path, server, write(tmp_path / "out.ape", "the old one"))


def cut(path: Path, size: int) -> Path:
    write(path, path.read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "cut short"),
        (b"GGUF", "cut short"),
        (b"<html>not found</html>" * 9, "not a GGUF"),
        (make_gguf()[:-1], "cut short"),
        (make_gguf(version=9), "version 9"),
        (make_gguf(architecture=""), "which architecture"),
        (make_gguf(architecture="clip"), "--mmproj"),
        (make_gguf(values={"general.type": "adapter"}), "--file"),
        (make_gguf(values={"split.no": 0, "split.count": 2}), "its name does not say so"),
    ],
)
def test_a_model_that_is_none_is_refused(place: Place, data: bytes, cause: str) -> None:
    model = named(write(place.folder / "m.gguf", data))
    assert cause in str(place.refuse("ape-model", models=(model,)))


def test_a_model_that_is_not_there_is_refused(place: Place) -> None:
    place.refuse("ape-input", models=(named(place.folder / "m.gguf"),))
    place.refuse("ape-input", models=(NamedFile("m.gguf", place.folder),))
    place.refuse("ape-name", models=(named(make_model(place.folder / "m.bin")),))
    place.refuse("ape-name", mmproj=named(make_model(place.folder / "m.bin", architecture="clip")))
    place.refuse("ape-model", mmproj=named(make_model(place.folder / "m.gguf")))


def test_a_part_of_a_model_that_is_missing_is_named(place: Place) -> None:
    parts = [
        make_model(place.folder / f"m-{n:05}-of-00003.gguf", values={"split.no": n - 1, "split.count": 3})
        for n in (1, 2, 3)
    ]
    parts[1].unlink()
    assert "part 2 of 3" in str(place.refuse("ape-model", models=(named(parts[0]),)))
    assert "m-00001-of-00003.gguf" in str(place.refuse("ape-model", models=(named(parts[2]),)))
    make_model(parts[1], values={"split.no": 2, "split.count": 3})
    assert "part 3 of 3" in str(place.refuse("ape-model", models=(named(parts[0]),)))
    cut(make_model(parts[1], values={"split.no": 1, "split.count": 3}), 500)
    assert "cut short" in str(place.refuse("ape-model", models=(named(parts[0]),)))


def test_one_model_twice_is_refused(place: Place) -> None:
    one, other = make_model(place.folder / "a" / "m.gguf"), make_model(place.folder / "b" / "m.gguf")
    place.refuse("ape-name", models=(named(one), named(other)))


@pytest.mark.parametrize(
    ("name", "data", "line", "fault"),
    [
        ("args", b"--port 1\n--alias 'x\n", 2, ArgumentFault.QUOTE),
        ("args", b"\xff\xfe-\0", 1, ArgumentFault.ENCODING),
        ("args.yaml", b"port: 1\nport: 2\n", 2, ArgumentFault.DUPLICATE),
        ("args.yml", b"port: [1]\n", 1, ArgumentFault.VALUE),
        ("args", b"#" * ((1 << 20) + 1), 1, ArgumentFault.SIZE),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(
    place: Place, name: str, data: bytes, line: int, fault: ArgumentFault
) -> None:
    path = write(place.folder / name, data)
    error = place.refuse("ape-arguments", args=named(path))
    assert isinstance(error, ArgumentsError)
    assert (error.file, error.line, error.fault) == (str(path), line, fault)


def test_arguments_that_are_not_there_are_refused(place: Place) -> None:
    place.refuse("ape-input", args=named(place.folder / "missing"))
    place.refuse("ape-input", args=named(place.folder))
    write(place.folder / "video", b"")
    os.truncate(place.folder / "video", 17 << 20)
    place.refuse("ape-input", args=named(place.folder / "video"))


def test_a_page_needs_an_index(place: Place) -> None:
    place.refuse("ape-folder", ui=make_folder(place.folder / "page", "main.html"))
    place.refuse("ape-folder", ui=place.folder / "missing")
    place.refuse("ape-folder", ui=place.out)


def leave(page: Path) -> None:
    (page / "link").symlink_to("../secret")


def leave_absolutely(page: Path) -> None:
    (page / "link").symlink_to(page.parent / "secret")


def leave_by_a_folder(page: Path) -> None:
    (page / "link").symlink_to("..")


def link_a_folder(page: Path) -> None:
    (page / "link").symlink_to("js")


def link_nowhere(page: Path) -> None:
    (page / "link").symlink_to("missing")


def link_in_a_circle(page: Path) -> None:
    (page / "link").symlink_to("link")


def be_a_pipe(page: Path) -> None:
    os.mkfifo(page / "pipe")


@pytest.mark.parametrize(
    "spoil",
    [leave, leave_absolutely, leave_by_a_folder, link_a_folder, link_nowhere, link_in_a_circle, be_a_pipe],
    ids=lambda spoil: spoil.__name__,
)
def test_a_folder_with_more_than_files_in_it_is_refused(place: Place, spoil: Callable[[Path], None]) -> None:
    write(place.folder / "secret", "x")
    page = make_folder(place.folder / "page", "index.html", "js/a.js")
    spoil(page)
    with pytest.raises(ApeError) as caught:
        plan(place.server, place.out, ui=page)
    assert caught.value.reason == "ape-folder"
    with pytest.raises(ApeError) as caught:
        plan(place.server, place.out, files=(NamedFile("x", page),))
    assert caught.value.reason == "ape-folder"


def test_a_link_within_the_folder_is_the_file_it_leads_to(place: Place) -> None:
    page = make_folder(place.folder / "page", "index.html", "js/a.js")
    (page / "b.js").symlink_to("js/a.js")
    made = package(place.server, place.folder / "x.ape", ui=page)[0].path
    with zipfile.ZipFile(made) as archive:
        assert archive.read("ui/custom/b.js") == b"js/a.js"


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../x",
        "/x",
        "a//x",
        "a/",
        "",
        ".",
        "a\\x",
        "a\nx",
        "ape/x",
        "slices/x",
        "ape",
        "slices",
        "mmojo-server-args",
        "mmojo-server-args.yaml",
        "other.gguf",
        "x" * 70000,
        "\udcff",
    ],
)
def test_a_name_that_leads_elsewhere_or_means_something_is_refused(place: Place, name: str) -> None:
    place.refuse("ape-name", files=(NamedFile(name, place.out),))


def test_two_files_of_one_name_are_refused(place: Place) -> None:
    docs = make_folder(place.folder / "docs", "a")
    place.refuse("ape-name", files=(NamedFile("d", docs), NamedFile("d/a", place.out)))
    place.refuse("ape-name", files=(NamedFile("d", place.out), NamedFile("d/a", place.out)))
    place.refuse("ape-name", files=(NamedFile("build-info.json/a", place.out),))
    place.refuse("ape-input", files=(NamedFile("d", place.folder / "missing"),))


@pytest.mark.parametrize("names", [("a", "A"), ("a:b",), ("con",), ("x/AUX.txt",), ("a.",), ("a /b",), ("what?",)])
def test_a_name_that_windows_cannot_have_is_refused_in_a_folder_only(place: Place, names: tuple[str, ...]) -> None:
    files = tuple(NamedFile(name, place.out) for name in names)
    place.refuse("ape-name", ("folder",), files=files, out=place.folder / "folder")
    place.refuse("ape-name", ("zip",), files=files)
    assert plan(place.server, place.folder / "other.ape", files=files)


@pytest.mark.parametrize("name", ["a/b", "a:b", "nul", "x?"])
def test_a_server_is_called_what_a_file_can_be(place: Place, name: str) -> None:
    place.refuse("ape-name", name=name)


def test_https_needs_a_certificate_and_its_key_in_pem(place: Place) -> None:
    cert = write(place.folder / "c", PEM % (b"CERTIFICATE", b"CERTIFICATE"))
    key = write(place.folder / "k", PEM % (b"PRIVATE KEY", b"PRIVATE KEY"))
    locked = write(place.folder / "l", PEM % (b"ENCRYPTED PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"))
    place.refuse("ape-certificate", cert=cert)
    place.refuse("ape-certificate", key=key)
    place.refuse("ape-certificate", cert=key, key=key)
    place.refuse("ape-certificate", cert=cert, key=cert)
    place.refuse("ape-certificate", cert=cert, key=locked)
    place.refuse("ape-certificate", cert=write(place.folder / "d", b"\x30\x82"), key=key)
    place.refuse("ape-input", cert=cert, key=place.folder / "missing")


def test_a_page_that_the_program_does_not_have_is_refused(place: Place) -> None:
    error = place.refuse("ape-no-entry", page="chess")
    assert "chat, complete" in error.detail
    place.refuse("ape-no-entry", page="custom")
    place.refuse("ape-no-entry", page="chat", remove=("ui/chat",))
    place.refuse("ape-no-entry", remove=("ui/ch",))
    place.refuse("ape-no-entry", remove=("slices/linux-x86_64-v3",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ape-not-a-program"),
        (b"#!/bin/sh\necho\n", "ape-not-a-program"),
        (b"MZ" + bytes(600), "ape-not-a-program"),
        (b"\x7fELF\2\1\1" + bytes(600), "ape-not-a-program"),
        (b"MZqFpD='\n" + bytes(600), "ape-truncated"),
    ],
)
def test_what_is_no_program_is_refused(place: Place, data: bytes, reason: str) -> None:
    place.refuse(reason, program=write(place.folder / "program", data))


def test_a_program_that_is_not_there_is_refused(place: Place) -> None:
    place.refuse("ape-input", program=place.folder / "missing")
    place.refuse("ape-input", program=place.folder)


def test_a_program_that_was_cut_short_or_changed_is_refused(place: Place) -> None:
    model = named(make_model(place.folder / "m.gguf"))
    native = package(write(place.folder / "elf", make_elf("linux-x86_64")), place.folder / "n", models=(model,))[0].path
    packaged = package(place.server, place.folder / "p.ape", models=(model,))[0].path
    for program in (native, packaged):
        place.refuse("ape-truncated", program=cut(program, program.stat().st_size - 1))
        place.refuse("ape-truncated", program=cut(program, program.stat().st_size // 2))
    data = bytearray(place.server.read_bytes())
    data[200000] ^= 1
    place.refuse("ape-altered", program=write(place.folder / "changed", bytes(data)))


def with_model(program: Path, *, align: int, deflated: bool) -> None:
    """Appends a model as other tools would."""
    with zipfile.ZipFile(program, "a") as archive:
        data = make_gguf()
        if deflated:
            archive.writestr("m.gguf", data, zipfile.ZIP_DEFLATED)
            return
        archive.writestr("pad", b"x" * align)
        archive.writestr("m.gguf", data)


def test_a_compressed_model_in_the_program_is_refused_until_it_is_replaced(place: Place) -> None:
    with_model(place.server, align=0, deflated=True)
    assert "--remove m.gguf" in str(place.refuse("ape-unmapped"))
    model = named(make_model(place.folder / "m.gguf"))
    assert plan(place.server, place.folder / "x.ape", models=(model,))
    assert plan(place.server, place.folder / "x.ape", remove=("m.gguf",))


def test_a_model_that_lies_askew_is_put_right(place: Place) -> None:
    with_model(place.server, align=7, deflated=False)
    made = package(place.server, place.folder / "x.ape")[0].path
    with zipfile.ZipFile(made) as archive:
        assert archive.read("m.gguf") == make_gguf()
    assert next(entry for entry in read_program(made).assets if entry.name == "m.gguf").mappable


def test_two_entries_of_one_name_in_the_program_are_refused(place: Place) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(place.server, "a") as archive:
        archive.writestr("twice", b"1")
        archive.writestr("twice", b"2")
    place.refuse("ape-altered")


def test_an_entry_among_the_slices_is_refused(place: Place) -> None:
    """What lies before the last slice is never written anew, so a file there could not be replaced."""
    program = read_program(place.server)
    assert program.facts is not None and program.directory is not None
    first = program.facts.slices[0]
    with place.server.open("r+b") as stream:
        stream.seek(first.offset + first.size + 8)
        writer = EntryWriter(stream)
        writer.add_stored("hidden", measure_bytes(b"hidden"), [b"hidden"], align=1)
        stream.seek(program.directory.start)
        EntryWriter(stream, [*(record_of(one) for one in program.directory.entries), *writer.entries]).finish()
    place.refuse("ape-altered")


def test_where_it_cannot_be_put_is_refused(place: Place) -> None:
    place.refuse("ape-output", out=place.folder / "missing" / "x.ape")
    place.refuse("ape-output", out=place.folder)
    place.refuse("ape-output", ("folder",), out=place.out)
    place.refuse("ape-output", ("folder",), out=place.folder)
    place.refuse("ape-output", ("ape", "folder"), out=place.folder / "x")
    (place.folder / "link").symlink_to(place.folder)
    place.refuse("ape-output", ("folder",), out=place.folder / "link")


def test_what_a_system_cannot_start_is_refused(place: Place) -> None:
    mac = write(place.folder / "mac", make_macho(b"x" * 100))
    linux = write(place.folder / "linux", make_elf("linux-x86_64"))
    assert "--format folder" in str(place.refuse("ape-output", program=mac))
    place.refuse("ape-output", ("exe",), program=mac)
    place.refuse("ape-output", ("exe",), program=linux)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ape-spec"),
        ("[]", "ape-spec"),
        ("{}", "ape-spec"),
        ('{"program": "x", "modles": []}', "ape-spec"),
        ('{"program": "x", "models": [{"name": "m.gguf"}]}', "ape-spec"),
        ('{"program": 7}', "ape-spec"),
    ],
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ApeError) as caught:
        read_order(write(tmp_path / "order.json", text))
    assert caught.value.reason == reason
    with pytest.raises(ApeError) as caught:
        read_order(tmp_path / "missing.json")
    assert caught.value.reason == "ape-input"
