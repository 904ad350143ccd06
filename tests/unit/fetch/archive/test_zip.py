"""Zip archives: what is read, what is refused, and that nothing outside the destination is touched."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fetch.archive.test_bytes import Arena, ZipFile, deflate, end64, zip_of

SYMLINK = 0o120777


def link(name: str, target: str) -> ZipFile:
    """A symlink as Info-ZIP writes it."""
    return ZipFile(name, target.encode(), SYMLINK, method=0)


def zip64(*values: int) -> bytes:
    """A zip64 extra field."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


# What is read


def test_a_zip_is_unpacked_with_modes_and_symlinks(arena: Arena) -> None:
    report = arena.extract(
        zip_of(
            ZipFile("bin/", b"", 0o40755, method=0),
            ZipFile("bin/tool", b"#!/bin/sh\n" * 50, 0o104755),
            link("bin/alias", "../bin/tool"),
            ZipFile("share/doc/readme", b"read me", method=0),
            ZipFile("share/dir-without-slash", b"", 0o40700, method=0),
            ZipFile("share/from-dos", b"x", 0o777, host=0),
            comment=b"PK\5\6 is no end record here",
        )
    )
    assert arena.tree() == {
        "bin": ("d",),
        "bin/tool": ("x", b"#!/bin/sh\n" * 50),
        "bin/alias": ("l", "../bin/tool"),
        "share": ("d",),
        "share/doc": ("d",),
        "share/doc/readme": ("f", b"read me"),
        "share/dir-without-slash": ("d",),
        "share/from-dos": ("f", b"x"),
    }
    assert (report.format, report.files, report.symlinks, report.directories) == ("zip", 3, 1, 4)


def test_many_files_written_by_several_threads_are_all_there(arena: Arena) -> None:
    files = {f"d{index % 17}/e{index % 5}/f{index}": os.urandom(index) for index in range(500)}
    files["big"] = bytes(9 << 20)
    arena.extract(zip_of(*(ZipFile(name, content) for name, content in files.items())))
    assert {path: value[1] for path, value in arena.tree().items() if value[0] == "f"} == files


class _Unseekable(io.RawIOBase):
    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("force", [False, True], ids=["zip", "zip64"])
def test_a_streamed_zip_with_data_descriptors_is_unpacked(arena: Arena, force: bool) -> None:
    out = _Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b"):
            with archive.open(name, "w", force_zip64=force) as file:
                file.write(name.encode() * 1000)
    arena.extract(out.data)
    assert arena.tree() == {"a": ("f", b"a" * 1000), "b": ("f", b"b" * 1000)}


def test_a_zip64_directory_and_entry_are_understood(arena: Arena) -> None:
    full = 0xFFFFFFFF
    file = ZipFile(
        "f", b"hello", method=0, local={"packed": full, "size": full, "extra": b"\x99\x99\0\0" + zip64(5, 5)},
        central={"packed": full, "size": full, "offset": full, "extra": zip64(5, 5, 0)},
    )  # fmt: skip
    arena.extract(zip_of(file))
    plain = zip_of(ZipFile("f", b"hello", method=0))
    start = plain.index(b"PK\1\2")
    size = plain.index(b"PK\5\6") - start
    arena.extract(zip_of(ZipFile("f", b"hello", method=0), before_end=end64(1, size, start), end={"total": 0xFFFF}))
    assert arena.tree() == {"f": ("f", b"hello")}


def test_sizes_in_a_zip64_extra_field_are_used(arena: Arena) -> None:
    full = 0xFFFFFFFF
    local = {"packed": full, "size": full, "extra": b"\x99\x99\1\0x" + zip64(5, 5)}
    arena.extract(zip_of(ZipFile("f", b"hello", method=0, local=local)))
    central = {"packed": full, "size": full, "extra": zip64(5, 5)}
    arena.extract(zip_of(ZipFile("f", b"hello", method=0, central=central)))
    assert arena.tree() == {"f": ("f", b"hello")}


@pytest.mark.parametrize(
    "extra", [b"", zip64(5), b"\1\0", b"\1\0\xff\xff12345678", zip64(1 << 63, 5), zip64(5, 1 << 63)]
)
def test_zip64_sizes_that_are_missing_or_impossible_are_refused(arena: Arena, extra: bytes) -> None:
    central = {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF, "extra": extra}
    assert arena.refusal(zip_of(ZipFile("f", b"hello", method=0, central=central))) in {
        "archive-corrupt",
        "archive-too-big",
    }


def test_large_files_are_read_in_pieces(arena: Arena) -> None:
    noise = os.urandom(3 << 20)
    arena.extract(zip_of(ZipFile("stored", noise, method=0), ZipFile("deflated", noise)))
    assert arena.tree() == {"stored": ("f", noise), "deflated": ("f", noise)}


def test_a_trailing_slash_makes_a_directory_whatever_the_mode(arena: Arena) -> None:
    arena.extract(zip_of(ZipFile("d/", b"", 0o100644, method=0), ZipFile("e/", b"", host=0, method=0)))
    assert arena.tree() == {"d": ("d",), "e": ("d",)}


def test_of_a_wheel_only_what_lies_below_the_subpath_is_unpacked(arena: Arena) -> None:
    report = arena.extract(zip_of(ZipFile("pkg/f", b"x"), ZipFile("pkg.dist-info/RECORD", b"")), subpath="pkg")
    assert arena.tree() == {"f": ("f", b"x")}
    assert report.skipped == 1


def test_an_empty_zip_is_an_empty_tree(arena: Arena) -> None:
    arena.extract(zip_of())
    assert arena.tree() == {}


def test_names_without_the_utf8_flag_are_code_page_437(arena: Arena) -> None:
    arena.extract(zip_of(ZipFile(b"\x81ber", b"x", flags=0)))
    assert arena.tree() == {"über": ("f", b"x")}


# Names and links


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "archive-absolute-name"),
        ("../secret", "archive-dotdot"),
        ("a/../../secret", "archive-dotdot"),
        ("..\\secret", "archive-bad-name"),
        ("C:\\secret", "archive-bad-name"),
        ("a\0b", "archive-bad-name"),
        ("", "archive-bad-name"),
        (".", "archive-bad-name"),
        (b"\xff", "archive-bad-name"),
        ("n" * 256, "archive-name-too-long"),
        ("a/" * 200 + "b", "archive-too-deep"),
    ],
)
@pytest.mark.parametrize("mode", [0o100644, SYMLINK])
def test_a_name_that_is_not_plain_is_refused(arena: Arena, name: str | bytes, reason: str, mode: int) -> None:
    assert arena.refusal(zip_of(ZipFile(name, b"f", mode))) == reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../secret", "archive-symlink-escapes"),
        ("a/../../secret", "archive-symlink-escapes"),
        ("f/../secret", "archive-symlink-escapes"),
        ("/etc/passwd", "archive-symlink-absolute"),
        ("", "archive-symlink-bad-target"),
        ("t" * 5000, "archive-symlink-bad-target"),
        ("nul\0", "archive-symlink-bad-target"),
    ],
)
def test_a_symlink_out_of_the_tree_is_refused(arena: Arena, target: str, reason: str) -> None:
    assert arena.refusal(zip_of(ZipFile("f", b"x"), link("l", target))) == reason


def test_a_symlink_target_that_is_not_utf8_is_refused(arena: Arena) -> None:
    assert arena.refusal(zip_of(ZipFile("l", b"\xff", SYMLINK))) == "archive-symlink-bad-target"


@pytest.mark.parametrize("first", [0, 1])
def test_nothing_is_written_through_a_symlink(arena: Arena, first: int) -> None:
    files = [link("l", "d"), ZipFile("l/f", b"x")]
    data = zip_of(ZipFile("d/", b"", 0o40755, method=0), files[first], files[1 - first])
    assert arena.refusal(data) in {"archive-through-symlink", "archive-duplicate"}
    assert "d/f" not in arena.tree()


@pytest.mark.parametrize("mode", [0o020644, 0o060644, 0o010644, 0o140644, 0o150000])
def test_devices_fifos_and_sockets_are_refused(arena: Arena, mode: int) -> None:
    assert arena.refusal(zip_of(ZipFile("dev", b"", mode))) == "archive-device"


# Entries that are not what they say


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ZipFile("f", b"x"), ZipFile("f", b"x")),
        (ZipFile("f", b"x"), ZipFile("./f", b"y")),
        (ZipFile("f", b"x"), link("f", "g")),
        (ZipFile("f", b"x"), ZipFile("f/", b"", 0o40755)),
        (ZipFile("f/", b"", 0o40755), ZipFile("f", b"x")),
        (ZipFile("f", b"x"), ZipFile("f/g", b"x")),
        (ZipFile("f/g", b"x"), ZipFile("f", b"x")),
        (ZipFile("f/g", b"x"), link("f", "g")),
    ],
)
def test_a_name_twice_is_refused(arena: Arena, one: ZipFile, other: ZipFile) -> None:
    assert arena.refusal(zip_of(one, other)) == "archive-duplicate"


def test_a_directory_may_come_twice(arena: Arena) -> None:
    arena.extract(zip_of(ZipFile("d/", b"", 0o40755), ZipFile("d/", b"", 0o40755)))
    assert arena.tree() == {"d": ("d",)}


def test_names_that_merging_makes_the_same_are_refused(arena: Arena) -> None:
    assert arena.refusal(zip_of(ZipFile("bin/f", b"x"), ZipFile("usr/bin/f", b"x")), merge_usr=True) == (
        "archive-duplicate"
    )


@pytest.mark.parametrize(
    "local",
    [
        {"name": b"evil"},
        {"name": b"x" * 70_000},
        {"size": 4},
        {"size": 6},
        {"packed": 4},
        {"packed": 1 << 30},
        {"crc": 1},
        {"method": 8},
        {"flags": 0},
        {"flags": 1 << 11 | 1},
        {"flags": 1 << 11 | 1 << 3, "crc": 0},
        {"size": 0xFFFFFFFF},
        {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": zip64(7, 7)},
    ],
)
def test_a_local_header_that_differs_from_the_directory_is_refused(arena: Arena, local: dict[str, Any]) -> None:
    if "name" in local:
        local = {**local, "name": local["name"][:60_000]}
    assert arena.refusal(zip_of(ZipFile("name", b"hello", method=0, local=local))) == "archive-corrupt"


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(ZipFile("f", b"hello", packed=deflate(b"hellO")), id="other content"),
        pytest.param(ZipFile("f", b"hello", packed=deflate(b"hello there")), id="more content"),
        pytest.param(ZipFile("f", b"hello", packed=deflate(b"hell")), id="less content"),
        pytest.param(ZipFile("f", b"", packed=deflate(b"hello")), id="content of an empty file"),
        pytest.param(ZipFile("f", b"hello", packed=deflate(b"hello") + b"rest"), id="a rest"),
        pytest.param(ZipFile("f", b"hello", packed=deflate(b"hello")[:-1]), id="a cut stream"),
        pytest.param(ZipFile("f", b"hello", packed=b"\xff\xff\xff\xff"), id="no deflate stream"),
        pytest.param(ZipFile("f", b"hello", packed=b""), id="nothing"),
        pytest.param(ZipFile("f", b"hello", method=0, packed=b"hell"), id="stored, too short"),
        pytest.param(ZipFile("f", b"hello", method=0, packed=b"hello!"), id="stored, too long"),
        pytest.param(ZipFile("f", bytes(3 << 20), packed=deflate(bytes(2 << 20))), id="large, less content"),
        pytest.param(ZipFile("f", bytes(2 << 20), packed=deflate(bytes(3 << 20))), id="large, more content"),
        pytest.param(ZipFile("d/", b"x", 0o40755), id="a directory with content"),
    ],
)
def test_content_that_is_not_what_the_headers_say_is_refused(arena: Arena, file: ZipFile) -> None:
    assert arena.refusal(zip_of(file)) == "archive-corrupt"


def test_entries_at_one_place_are_refused(arena: Arena) -> None:
    """Overlapping entries: the kernel of the zip bombs that unpack to petabytes."""
    files = [ZipFile("a", b"x" * 100), *(ZipFile(name, b"x" * 100, central={"offset": 0}) for name in "bc")]
    assert arena.refusal(zip_of(*files)) == "archive-corrupt"


def test_an_entry_that_quotes_the_next_local_header_is_refused(arena: Arena) -> None:
    """D. Fifield's construction: a stored deflate block holds the local header of the entry behind it."""
    inner = zip_of(ZipFile("b", b"x" * 50, method=0))
    local = inner[: inner.index(b"PK\1\2")]
    outer = ZipFile("a", local, method=0)
    start = len(outer.parts()[2])
    shared = ZipFile("b", b"x" * 50, method=0, central={"offset": start})
    assert arena.refusal(zip_of(outer, shared)) == "archive-corrupt"


def test_an_entry_that_reaches_into_the_directory_is_refused(arena: Arena) -> None:
    lie = {"packed": 60, "size": 60}
    assert arena.refusal(zip_of(ZipFile("a", b"x", method=0, local=lie, central=lie))) == "archive-corrupt"
    assert arena.refusal(zip_of(ZipFile("a", b"x", central={"offset": 1 << 31}))) == "archive-corrupt"


def test_a_long_local_extra_field_that_pushes_content_over_the_next_entry_is_refused(arena: Arena) -> None:
    file = ZipFile("a", b"x" * 50, method=0, local={"extra": b"\x99\x99\x20\0" + bytes(32)}, packed=b"x" * 50)
    data = zip_of(file, ZipFile("b", b"y", method=0))
    cut = data.index(b"x" * 50)
    moved = bytearray(data[:cut] + data[cut + 36 :])  # the header does not know that there is less room
    start, end = moved.index(b"PK\1\2"), moved.index(b"PK\5\6")
    moved[end + 16 : end + 20] = struct.pack("<L", start)
    second = moved.index(b"PK\1\2", start + 1)
    moved[second + 42 : second + 46] = struct.pack("<L", moved.index(b"PK\3\4", 1))
    assert arena.refusal(bytes(moved)) == "archive-corrupt"


@pytest.mark.parametrize("flags", [1, 1 << 6, 1 << 13])
def test_encrypted_entries_are_refused(arena: Arena, flags: int) -> None:
    assert arena.refusal(zip_of(ZipFile("f", b"x", flags=flags))) == "archive-encrypted"


@pytest.mark.parametrize("file", [ZipFile("f", b"x", method=12), ZipFile("f", b"x", flags=1 << 5)])
def test_other_compressions_are_refused(arena: Arena, file: ZipFile) -> None:
    assert arena.refusal(zip_of(file)) == "archive-unsupported"
