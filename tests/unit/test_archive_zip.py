"""Zip archives: what is read, what is refused, and that nothing outside the destination is touched."""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.fetch.archive import ArchiveLimits
from mmojo_forge.fetch.archive import zip as zip_format
from tests.unit.test_archive_bytes import Arena, ZipFile, deflate, zip_of

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
    arena.extract(zip_of(ZipFile("f", b"hello", method=0), before_end=_end64(1, size, start), end={"total": 0xFFFF}))
    assert arena.tree() == {"f": ("f", b"hello")}


def _end64(total: int, size: int, offset: int) -> bytes:
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 63, 45, 0, 0, total, total, size, offset)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)


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


# The directory


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"disk": 1}, "archive-unsupported"),
        ({"here": 0}, "archive-unsupported"),
        ({"here": 2, "total": 2}, "archive-corrupt"),
        ({"here": 0, "total": 0}, "archive-corrupt"),
        ({"here": 60_000, "total": 60_000}, "archive-corrupt"),
        ({"size": 10}, "archive-corrupt"),
        ({"offset": 0}, "archive-corrupt"),
        ({"offset": 1, "size": 0xFFFFFFF0}, "archive-corrupt"),
    ],
)
def test_an_end_record_that_does_not_fit_is_refused(arena: Arena, end: dict[str, int], reason: str) -> None:
    assert arena.refusal(zip_of(ZipFile("f", b"x"), end=end)) == reason


@pytest.mark.parametrize(
    "end64", [_end64(2, 47, 34), _end64(1, 1, 34), b"PK\6\6" + bytes(52) + _end64(1, 47, 1 << 40)[-20:]]
)
def test_two_end_records_that_differ_are_refused(arena: Arena, end64: bytes) -> None:
    assert arena.refusal(zip_of(ZipFile("f", b"x"), before_end=end64)) == "archive-corrupt"


@pytest.mark.parametrize("field", ["name", "extra"])
def test_a_directory_that_ends_within_an_entry_is_refused(arena: Arena, field: str) -> None:
    data = bytearray(zip_of(ZipFile("f", b"x")))
    start = data.index(b"PK\1\2") + (28 if field == "name" else 30)
    data[start : start + 2] = b"\xff\xff"
    assert arena.refusal(bytes(data)) == "archive-corrupt"


def test_a_wrong_signature_anywhere_is_refused(arena: Arena) -> None:
    data = zip_of(ZipFile("f", b"x"), ZipFile("g", b"x"))
    for signature in (b"PK\1\2", b"PK\3\4"):
        broken = bytearray(data)
        broken[data.rindex(signature)] = 0
        assert arena.refusal(bytes(broken)) == "archive-corrupt"


def test_a_zip_behind_other_bytes_is_no_zip(arena: Arena) -> None:
    assert arena.refusal(b"#!/bin/sh\n" + zip_of(ZipFile("f", b"x"))) == "archive-unknown-format"


def test_a_zip_cut_short_anywhere_is_refused(arena: Arena) -> None:
    data = zip_of(ZipFile("f", b"hello"), ZipFile("g", b"world"))
    reasons = {arena.refusal(data[:cut]) for cut in range(len(data))}
    assert reasons <= {"archive-truncated", "archive-unknown-format"}


# Bounds


def test_a_bomb_is_refused_before_anything_is_written(arena: Arena) -> None:
    data = zip_of(ZipFile("f", bytes(20 << 20)))
    assert arena.refusal(data, limits=ArchiveLimits(ratio=100, ratio_slack=1 << 20)) == "archive-ratio"
    assert arena.tree() == {}


def test_limits_on_count_and_size_are_kept(arena: Arena) -> None:
    data = zip_of(*(ZipFile(f"f{index}", b"12345") for index in range(10)))
    assert arena.refusal(data, limits=ArchiveLimits(members=9)) == "archive-too-many"
    assert arena.refusal(data, limits=ArchiveLimits(total_bytes=49)) == "archive-too-big"
    assert arena.refusal(data, limits=ArchiveLimits(file_bytes=4)) == "archive-too-big"
    assert arena.tree() == {}


def test_a_size_that_lies_costs_no_more_than_the_size(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    arena.archive.write_bytes(zip_of(ZipFile("f", b"x" * 10, packed=deflate(bytes(50 << 20)))))
    descriptor = os.open(arena.archive, os.O_RDONLY)
    try:
        (found,) = zip_format.read_entries(descriptor, arena.archive.stat().st_size, ArchiveLimits())
        pieces = list[bytes]()
        with pytest.raises(Exception, match="more content than its size"):
            pieces.extend(zip_format.content(descriptor, found))
        assert len(b"".join(pieces)) <= 11
    finally:
        os.close(descriptor)


def test_no_thread_outlives_a_refusal(arena: Arena) -> None:
    before = threading.active_count()
    files = [ZipFile(f"f{index}", os.urandom(1000)) for index in range(300)]
    files[150].local = {"crc": 1}
    assert arena.refusal(zip_of(*files)) == "archive-corrupt"
    assert threading.active_count() == before
