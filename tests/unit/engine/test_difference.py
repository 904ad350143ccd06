"""Differences between trees are named: the path, the first byte, and the part of the file that it lies in."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.link import link
from mmojo_forge.engine import difference
from mmojo_forge.engine.difference import Difference, DifferenceKind, compare_trees, first_difference, name_part
from mmojo_forge.recipe.local_files import read_local_tree
from tests.support.ape_samples import make_pe, write_inputs

MIB = 1 << 20


def compare(expected: Path, got: Path) -> list[Difference]:
    return compare_trees(read_local_tree(expected), expected, read_local_tree(got), got)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same in them."""
    for name in ("expected", "got"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/file").write_text("some text\n")
        (folder / "program").write_text("#!/bin/sh\n")
        (folder / "program").chmod(0o755)
        (folder / "link").symlink_to("program")
    return tmp_path / "expected", tmp_path / "got"


def test_the_same_files_have_no_differences(pair: tuple[Path, Path]) -> None:
    assert compare(*pair) == []


def test_a_path_may_be_missing_or_added(pair: tuple[Path, Path]) -> None:
    expected, got = pair
    (got / "sub/file").unlink()
    (got / "sub").rmdir()
    (got / "new").write_text("")
    assert compare(expected, got) == [
        Difference("new", DifferenceKind.ADDED),
        Difference("sub", DifferenceKind.MISSING),
        Difference("sub/file", DifferenceKind.MISSING),
    ]


def test_another_kind_is_told_also_where_the_content_is_the_same(pair: tuple[Path, Path]) -> None:
    expected, got = pair
    (got / "program").chmod(0o644)
    (got / "link").unlink()
    (got / "link").mkdir()
    (got / "sub/file").unlink()
    (got / "sub/file").symlink_to("../program")
    assert compare(expected, got) == [Difference(path, DifferenceKind.KIND) for path in ("link", "program", "sub/file")]


def test_a_symlink_to_another_target_is_told(pair: tuple[Path, Path]) -> None:
    expected, got = pair
    (got / "link").unlink()
    (got / "link").symlink_to("sub/file")
    assert compare(expected, got) == [Difference("link", DifferenceKind.TARGET)]


def test_other_content_is_told_with_its_first_byte(pair: tuple[Path, Path]) -> None:
    expected, got = pair
    (got / "sub/file").write_text("some tale\n")
    assert compare(expected, got) == [Difference("sub/file", DifferenceKind.CONTENT, 6)]


def test_a_tree_that_is_one_file_has_no_path(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"abd")
    assert compare(one, other) == [Difference("", DifferenceKind.CONTENT, 2)]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1])
def test_a_shorter_file_differs_where_it_ends(tmp_path: Path, size: int) -> None:
    shorter, longer = tmp_path / "shorter", tmp_path / "longer"
    shorter.write_bytes(b"x" * size)
    longer.write_bytes(b"x" * size + b"yz")
    assert compare(longer, shorter) == compare(shorter, longer) == [Difference("", DifferenceKind.CONTENT, size)]


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB + 5])
def test_the_first_byte_is_found_beyond_the_first_chunk(tmp_path: Path, at: int) -> None:
    content = bytearray(3 * MIB)
    (tmp_path / "one").write_bytes(content)
    content[at] = content[-1] = 1
    (tmp_path / "other").write_bytes(content)
    assert first_difference(tmp_path / "one", tmp_path / "other") == at


@settings(max_examples=100, deadline=None)
@given(shared=st.binary(max_size=40), one=st.binary(max_size=10), other=st.binary(max_size=10), chunk=st.integers(1, 9))
def test_the_first_difference_is_where_the_common_beginning_ends(
    tmp_path_factory: pytest.TempPathFactory, shared: bytes, one: bytes, other: bytes, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    left, right = shared + one, shared + other
    (folder / "one").write_bytes(left)
    (folder / "other").write_bytes(right)
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "_CHUNK", chunk)
        assert first_difference(folder / "one", folder / "other") == at
    shutil.rmtree(folder)


def make_elf_with_sections(rodata: bytes) -> bytes:
    """An ELF executable with `.text`, `.rodata` and the sections' names, and nothing else."""
    names = b"\0.text\0.rodata\0.shstrtab\0"
    text = b"\x90" * 32
    start = 64 + 56
    rodata_at = start + len(text)
    names_at = rodata_at + len(rodata)
    sections_at = -(-(names_at + len(names)) // 8) * 8
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        *(2, 62, 1, 0x400000 + start, 64, sections_at, 0, 64, 56, 1, 64, 4, 3),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, names_at, names_at, 0x1000)

    def section(name: bytes, kind: int, flags: int, at: int, size: int) -> bytes:
        address = 0x400000 + at if flags else 0
        return struct.pack("<IIQQQQIIQQ", names.index(name), kind, flags, address, at, size, 0, 0, 1, 0)

    table = bytes(64) + section(b".text", 1, 6, start, len(text)) + section(b".rodata", 1, 2, rodata_at, len(rodata))
    table += section(b".shstrtab", 3, 0, names_at, len(names))
    return (header + segment + text + rodata + names).ljust(sections_at, b"\0") + table


def test_a_section_of_an_elf_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(make_elf_with_sections(b"version 1.0"))
    (tmp_path / "other").write_bytes(make_elf_with_sections(b"version 1.1"))
    (found,) = compare(tmp_path / "one", tmp_path / "other")
    assert (found.kind, found.offset, found.section) == (DifferenceKind.CONTENT, 64 + 56 + 32 + 10, "section .rodata")
    assert name_part(tmp_path / "one", 64 + 56) == "section .text"
    assert name_part(tmp_path / "one", 70) == ""


def test_a_section_of_a_pe_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(make_pe(b"one"))
    (tmp_path / "other").write_bytes(make_pe(b"two"))
    (found,) = compare(tmp_path / "one", tmp_path / "other")
    assert (found.kind, found.section) == (DifferenceKind.CONTENT, "section .rdata")


def archive(*members: tuple[bytes, bytes]) -> bytes:
    """An archive of ar(5), members named as GNU's and LLVM's name them."""
    parts, table = [], b""
    for name, content in members:
        shown = name + b"/"
        if len(shown) > 16:
            shown, table = b"/%d" % len(table), table + shown + b"\n"
        parts.append((shown, content))
    if table:
        parts.insert(0, (b"//", table))
    if members:
        parts.insert(0, (b"/", b"\0\0\0\0"))
    return b"!<arch>\n" + b"".join(
        b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(content))
        + content
        + b"\n" * (len(content) % 2)
        for name, content in parts
    )


@pytest.mark.parametrize(
    "name", [b"short.o", b"fifteen-bytes.o", b"a-name-beyond-sixteen.c.o", b"another-long-name.c.o"]
)
def test_a_member_of_an_archive_is_named(tmp_path: Path, name: bytes) -> None:
    members = [(b"short.o", b"odd"), (b"fifteen-bytes.o", b"even"), (b"a-name-beyond-sixteen.c.o", b"content")]
    members.append((b"another-long-name.c.o", b"the last"))
    (tmp_path / "one.a").write_bytes(archive(*members))
    (tmp_path / "other.a").write_bytes(
        archive(*((one, b"X" * len(body) if one == name else body) for one, body in members))
    )
    (found,) = compare(tmp_path / "one.a", tmp_path / "other.a")
    assert found.section == f"member {name.decode()}"
    assert found.offset is not None
    assert name_part(tmp_path / "one.a", found.offset - 2) == f"member {name.decode()} (header)"
    assert name_part(tmp_path / "one.a", 8) == "member index (header)"


@pytest.mark.parametrize("size", [b"-60", b"x", b"", b"+5", b"1_0"])
def test_an_archive_that_is_none_has_no_members(tmp_path: Path, size: bytes) -> None:
    """A size below zero would lead back to the same header for ever."""
    whole = archive((b"one.o", b"content")) + b"%-48s%-10s`\n" % (b"bad/", size) + b"rest" * 100
    (tmp_path / "bad.a").write_bytes(whole)
    assert name_part(tmp_path / "bad.a", len(whole) - 1) == ""
    assert name_part(tmp_path / "bad.a", 3) == ""


def test_a_slice_of_an_ape_is_named(tmp_path: Path) -> None:
    bodies = {"linux-x86_64": b"one" * 500, "windows-x86_64": b"two" * 500, "linux-aarch64": b"three" * 500}
    one = link(write_inputs(tmp_path / "in", bodies), tmp_path / "one.ape").path
    record = next(record for record in read_container(one).slices if record.name.startswith("windows"))
    content = bytearray(one.read_bytes())
    content[record.offset + 2000] ^= 1
    (tmp_path / "other.ape").write_bytes(content)
    (found,) = compare(one, tmp_path / "other.ape")
    assert (found.offset, found.section) == (record.offset + 2000, f"slice {record.name}")


def test_an_ape_that_cannot_be_read_differs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"MZqFpD='\n" + b"x" * 4096)
    (tmp_path / "other").write_bytes(b"MZqFpD='\n" + b"x" * 4095 + b"y")
    assert compare(tmp_path / "one", tmp_path / "other") == [Difference("", DifferenceKind.CONTENT, 4104)]


@pytest.mark.parametrize(
    "magic", [b"\x7fELF", b"\x7fELF\x02\x01\x01", b"MZ", b"\xcf\xfa\xed\xfe", b"!<arch>\n", b"", b"text"]
)
def test_a_file_that_only_begins_like_an_executable_differs_all_the_same(
    tmp_path: Path, magic: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").write_bytes(magic + b"x" * 400)
    (tmp_path / "other").write_bytes(magic + b"x" * 399 + b"y")
    assert compare(tmp_path / "one", tmp_path / "other") == [Difference("", DifferenceKind.CONTENT, len(magic) + 399)]
    assert capfd.readouterr() == ("", "")
