"""Tar archives: what is read, what is refused, and that nothing outside the destination is touched."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import threading
from pathlib import Path

import pytest
import zstandard

from mmojo_forge.fetch.archive import ArchiveLimits
from tests.unit.fetch.archive.test_bytes import (
    COMPRESSIONS,
    END,
    Arena,
    checksummed,
    directory,
    entry,
    hard_link,
    long_name,
    pax,
    symlink,
    tar,
)

HONEST = tar(
    directory("./"),
    directory("./bin/"),
    entry("./bin/tool", b"#!/bin/sh\n", mode=0o755),
    symlink("./bin/alias", "tool"),
    hard_link("./bin/same", "./bin/tool"),
    entry("./share/doc/readme", b"read me\n" * 1000),
    entry("./empty"),
)
HONEST_TREE = {
    "bin": ("d",),
    "bin/tool": ("x", b"#!/bin/sh\n"),
    "bin/alias": ("l", "tool"),
    "bin/same": ("x", b"#!/bin/sh\n"),
    "share": ("d",),
    "share/doc": ("d",),
    "share/doc/readme": ("f", b"read me\n" * 1000),
    "empty": ("f", b""),
}


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


# What is read


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_a_tar_is_unpacked_whatever_it_is_compressed_with(arena: Arena, compression: str | None) -> None:
    report = arena.extract(COMPRESSIONS[compression](HONEST) if compression else HONEST)
    assert arena.tree() == HONEST_TREE
    assert report.format == (f"tar.{compression}" if compression else "tar")
    assert (report.files, report.symlinks, report.directories) == (4, 1, 3)


def test_a_hard_link_becomes_a_file_of_its_own(arena: Arena) -> None:
    arena.extract(HONEST)
    (arena.dest / "bin/same").write_bytes(b"changed")
    assert (arena.dest / "bin/tool").read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755, 0o1755])
def test_of_the_mode_only_the_owners_exec_bit_survives(arena: Arena, mode: int) -> None:
    arena.extract(tar(entry("suid", b"x", mode=mode), entry("plain", b"x", mode=0o077)))
    assert stat.S_IMODE((arena.dest / "suid").stat().st_mode) & 0o7000 == 0
    assert {path: kind for path, (kind, *_) in arena.tree().items()} == {"suid": "x", "plain": "f"}


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(entry("f", b"x", prefix=b"deep/er"), id="ustar prefix"),
        pytest.param(pax(path="deep/er/f") + entry("wrong", b"x"), id="pax path"),
        pytest.param(long_name("deep/er/f") + entry("wrong", b"x"), id="GNU long name"),
        pytest.param(long_name("wrong") + pax(path="deep/er/f") + entry("wrong", b"x"), id="pax over GNU"),
        pytest.param(pax(path="deep/er/f") + long_name("wrong") + entry("wrong", b"x"), id="pax before GNU"),
        pytest.param(pax("g", comment="commit") + entry("deep/er/f", b"x"), id="global comment"),
        pytest.param(entry("deep/er/f", b"x", size=b"\x80" + (1).to_bytes(11, "big")), id="base 256 size"),
        pytest.param(pax(size="1") + entry("deep/er/f", b"x", size=0)[:512] + b"x" + bytes(511), id="pax size"),
        pytest.param(entry("deep/er/f", b"x", kind="\0", magic=bytes(8)), id="V7"),
        pytest.param(entry("deep/er/f", b"x", kind="7"), id="contiguous"),
        pytest.param(pax(mtime="1.5", uname="root") + entry("deep//er/./f", b"x"), id="dots and doubled slashes"),
    ],
)
def test_every_dialect_names_the_same_file(arena: Arena, written: bytes) -> None:
    arena.extract(tar(written))
    assert arena.tree() == {"deep": ("d",), "deep/er": ("d",), "deep/er/f": ("f", b"x")}


def test_a_v7_name_with_a_trailing_slash_is_a_directory(arena: Arena) -> None:
    arena.extract(tar(entry("d/", kind="\0", magic=bytes(8))))
    assert arena.tree() == {"d": ("d",)}


def test_gnus_prefix_field_is_no_prefix(arena: Arena) -> None:
    arena.extract(tar(entry("f", b"x", magic=b"ustar  \0", prefix=b"12345670123")))
    assert arena.tree() == {"f": ("f", b"x")}


def test_signed_checksums_of_old_writers_are_understood(arena: Arena) -> None:
    block = bytearray(entry("grün", b"")[:512])
    block[148:156] = b"%06o\0 " % (int(block[148:154], 8) - 256 * sum(byte > 127 for byte in block))
    arena.extract(tar(bytes(block)))
    assert arena.tree() == {"grün": ("f", b"")}


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(gzip.compress(HONEST[:700]) + gzip.compress(HONEST[700:]), id="gzip members"),
        pytest.param(gzip.compress(HONEST) + bytes(600), id="gzip padding"),
        pytest.param(lzma.compress(HONEST[:700]) + bytes(8) + lzma.compress(HONEST[700:]), id="xz streams"),
        pytest.param(
            b"\x50\x2a\x4d\x18\x04\0\0\0pzst"
            + zstandard.compress(HONEST[:700])
            + b"\x5f\x2a\x4d\x18\0\0\0\0"
            + zstandard.compress(HONEST[700:]),
            id="zstd frames, some to skip",
        ),
    ],
)
def test_a_stream_in_several_pieces_is_one_archive(arena: Arena, packed: bytes) -> None:
    arena.extract(packed)
    assert arena.tree() == HONEST_TREE


def test_a_later_entry_replaces_an_earlier_one_of_its_name(arena: Arena) -> None:
    first, second = entry("f", b"first, longer"), entry("f", b"second", mode=0o755)
    arena.extract(tar(first, hard_link("copy", "f"), second))
    assert arena.tree() == {"f": ("x", b"second"), "copy": ("f", b"first, longer")}


def test_a_file_replaces_a_symlink_and_is_not_written_through_it(arena: Arena) -> None:
    arena.extract(tar(entry("kept", b"kept"), symlink("f", "kept"), entry("f", b"new")))
    assert arena.tree() == {"kept": ("f", b"kept"), "f": ("f", b"new")}


def test_a_symlink_may_lead_anywhere_within_the_tree(arena: Arena) -> None:
    targets = {"a/b/up": "../..", "a/dangling": "../not/there", "a/b/round": "./../b/../c/f"}
    arena.extract(tar(*(symlink(*link) for link in targets.items()), entry("a/c/f", b"x")))
    assert {path: value[1] for path, value in arena.tree().items() if value[0] == "l"} == targets


def test_long_link_targets_of_gnu_are_read(arena: Arena) -> None:
    target = "/".join(["d" * 60] * 3)
    long = long_name(target, "K")
    arena.extract(
        tar(long + symlink("l", "x"), long + pax(linkpath="y") + symlink("m", "x"), entry("f"), symlink("n", "f"))
    )
    assert arena.tree() == {"l": ("l", target), "m": ("l", "y"), "n": ("l", "f"), "f": ("f", b"")}


def test_directories_without_permissions_are_filled_all_the_same(arena: Arena) -> None:
    arena.extract(tar(entry("d", kind="5", mode=0), entry("d/f", b"x", mode=0)))
    assert arena.tree()["d/f"] == ("f", b"x")


# What is not a file, or not to be understood


@pytest.mark.parametrize("kind", ["3", "4", "6"])
def test_devices_and_fifos_are_refused(arena: Arena, kind: str) -> None:
    assert arena.refusal(tar(entry("dev", kind=kind))) == "archive-device"


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(entry("f", kind="S"), id="GNU sparse"),
        pytest.param(pax(GNU__sparse__major="1", GNU__sparse__name="../x") + entry("f"), id="pax sparse"),
        pytest.param(entry("f", kind="M"), id="multi-volume"),
        pytest.param(entry("f", kind="V"), id="label"),
        pytest.param(entry("f", kind="D"), id="dump directory"),
        pytest.param(entry("f", kind="X"), id="Solaris"),
        pytest.param(entry("f", kind="\xff"), id="unknown"),
        pytest.param(pax("g", path="x") + entry("f"), id="global path"),
        pytest.param(pax("g", linkpath="x") + entry("f"), id="global link path"),
        pytest.param(pax("g", size="5") + entry("f"), id="global size"),
    ],
)
def test_what_readers_disagree_about_is_refused(arena: Arena, written: bytes) -> None:
    assert arena.refusal(tar(written)) == "archive-unsupported"


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(entry("d", b"x" * 512, kind="5"), id="a directory with content"),
        pytest.param(entry("l", b"x" * 512, kind="2", target="f"), id="a symlink with content"),
        pytest.param(entry("l", b"x" * 512, kind="1", target="f"), id="a hard link with content"),
        pytest.param(pax(path="a") + pax(path="b") + entry("f"), id="two pax headers"),
        pytest.param(long_name("a") + long_name("b") + entry("f"), id="two long names"),
        pytest.param(entry("f", size=b"\xff" * 12), id="a negative size"),
        pytest.param(entry("f", size=b"-0000000001\0"), id="a size with a sign"),
        pytest.param(entry("f", size=b"0x000000010\0"), id="a size that is no octal"),
        pytest.param(pax(size="-1") + entry("f"), id="a negative pax size"),
        pytest.param(pax(size="1e3") + entry("f"), id="a pax size that is no number"),
        pytest.param(pax(size="9" * 5000) + entry("f"), id="a pax size of 5000 digits"),
        pytest.param(entry("pax", b"3 a=b\n", kind="x") + entry("f"), id="a short pax record"),
        pytest.param(entry("pax", b"99 a=b\n", kind="x") + entry("f"), id="a long pax record"),
        pytest.param(entry("pax", b"-6 a=b\n", kind="x") + entry("f"), id="a negative pax record"),
        pytest.param(entry("pax", b"6 ab \n", kind="x") + entry("f"), id="a pax record without ="),
        pytest.param(entry("pax", b"5 =b\n", kind="x") + entry("f"), id="a pax record without a key"),
        pytest.param(entry("pax", b"9" * 30 + b" a=b\n", kind="x") + entry("f"), id="a huge pax record"),
        pytest.param(bytes(512) + entry("f"), id="a lone zero block"),
        pytest.param(b"x" * 512, id="a block that is no header"),
        pytest.param(entry("f")[:148] + b"0000000\0" + entry("f")[156:], id="a wrong checksum"),
    ],
)
def test_what_is_malformed_is_refused(arena: Arena, written: bytes) -> None:
    assert arena.refusal(tar(entry("first", b"x"), written)) == "archive-corrupt"


def test_a_checksum_in_no_octal_is_no_header(arena: Arena) -> None:
    block = bytearray(checksummed(entry("f")[:512]))
    block[148:156] = b"zzzzzzzz"
    assert arena.refusal(tar(bytes(block))) == "archive-unknown-format"


# Bounds


@pytest.mark.parametrize(
    "written",
    [
        entry("f", size=b"\x80" + b"\xff" * 11),
        pax(size=str(1 << 50)) + entry("f"),
        entry("f", size=b"77777777777\0"),
    ],
    ids=["base 256", "pax", "octal"],
)
def test_a_huge_size_is_refused_before_anything_is_read(arena: Arena, written: bytes) -> None:
    limits = ArchiveLimits(file_bytes=1 << 30)
    assert arena.refusal(tar(entry("first"), written), limits=limits) == "archive-too-big"


@pytest.mark.parametrize("kind", ["x", "g", "L", "K"])
def test_extended_headers_are_bounded(arena: Arena, kind: str) -> None:
    assert arena.refusal(tar(entry("first"), entry("pax", kind=kind, size=1 << 30))) == "archive-too-big"


def test_ten_thousand_global_headers_are_no_recursion(arena: Arena) -> None:
    """CVE-2026-44028 was a parser that recursed as deep as its input said."""
    data = pax("g", comment="x") * 10_000 + entry("f", b"x")
    arena.extract(tar(data))
    assert arena.refusal(tar(data), limits=ArchiveLimits(members=5000)) == "archive-too-many"


def test_limits_on_count_size_and_depth_are_kept(arena: Arena) -> None:
    many = tar(*(entry(f"f{index}", b"12345") for index in range(10)))
    assert arena.refusal(many, limits=ArchiveLimits(members=9)) == "archive-too-many"
    assert arena.refusal(many, limits=ArchiveLimits(total_bytes=49), replace=True) == "archive-too-big"
    assert arena.refusal(many, limits=ArchiveLimits(file_bytes=4), replace=True) == "archive-too-big"
    assert arena.refusal(tar(entry("a/b/c")), limits=ArchiveLimits(depth=2)) == "archive-too-deep"
    assert arena.refusal(tar(entry("abcdef")), limits=ArchiveLimits(path_bytes=5)) == "archive-name-too-long"


def test_directories_that_are_only_implied_count_too(arena: Arena) -> None:
    data = tar(*(entry("/".join(str(index) * 40)) for index in range(3)))
    assert arena.refusal(data, limits=ArchiveLimits(members=100)) == "archive-too-many"


def test_limits_beyond_what_a_tree_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="deeper"):
        ArchiveLimits(depth=1000)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_stops_at_the_ratio(arena: Arena, compression: str) -> None:
    data = COMPRESSIONS[compression](entry("f", bytes(40 << 20)))
    assert arena.refusal(data, limits=ArchiveLimits(ratio=20, ratio_slack=1 << 20)) == "archive-ratio"
    assert sum(len(value[1]) for value in arena.tree().values()) < 30 << 20


def test_a_bomb_behind_the_end_of_the_archive_stops_too(arena: Arena) -> None:
    data = gzip.compress(tar(entry("f")) + bytes(40 << 20))
    assert arena.refusal(data, limits=ArchiveLimits(ratio=20, ratio_slack=1 << 20)) == "archive-ratio"


# Truncated and corrupt


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_archive_cut_short_anywhere_is_refused(arena: Arena, compression: str) -> None:
    data = COMPRESSIONS[compression](tar(entry("f", bytes(range(256))), symlink("l", "f")))
    cuts = {*range(0, len(data), 1 + len(data) // 60), len(data) - 1, len(data) - 4, len(data) - 8}
    reasons = {arena.refusal(data[:cut], replace=True) for cut in cuts}
    assert reasons <= {"archive-truncated", "archive-unknown-format"}


def test_a_plain_archive_cut_short_anywhere_is_refused(arena: Arena) -> None:
    data = tar(pax(path="long") + entry("f", b"x" * 700), long_name("other") + entry("g", b"y"))
    whole = len(data) - len(END) + 512
    cuts = [cut for edge in range(0, whole + 1, 512) for cut in (edge - 1, edge, edge + 1) if 0 <= cut < whole]
    reasons = {cut: arena.refusal(data[:cut], replace=True) for cut in cuts}
    assert {reason for cut, reason in reasons.items() if cut > 512} == {"archive-truncated"}
    arena.extract(data[:whole], replace=True)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_garbage_behind_a_compressed_stream_is_refused(arena: Arena, compression: str) -> None:
    assert arena.refusal(COMPRESSIONS[compression](HONEST) + b"garbage") in {"archive-corrupt", "archive-truncated"}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_wrong_checksum_at_the_very_end_is_found(arena: Arena, compression: str) -> None:
    data = bytearray(COMPRESSIONS[compression](HONEST))
    data[-5 if compression != "xz" else -20] ^= 1
    assert arena.refusal(bytes(data)) in {"archive-corrupt", "archive-truncated"}


def test_an_extended_header_without_an_entry_is_refused(arena: Arena) -> None:
    assert arena.refusal(tar(entry("f"), pax(path="x"))) == "archive-truncated"


@pytest.mark.parametrize("data", [b"", b"x", b"hello" * 500, b"7z\xbc\xaf\x27\x1c" + bytes(600), bytes(100)])
def test_what_is_no_archive_is_refused(arena: Arena, data: bytes) -> None:
    assert arena.refusal(data) == "archive-unknown-format"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_file_that_is_no_tar_is_refused(arena: Arena, compression: str) -> None:
    assert arena.refusal(COMPRESSIONS[compression](b"hello" * 500)) == "archive-unknown-format"


def test_an_empty_tar_is_an_empty_tree(arena: Arena) -> None:
    arena.extract(bytes(10240))
    assert arena.tree() == {}


def test_no_thread_outlives_a_refusal(arena: Arena) -> None:
    before = threading.active_count()
    arena.refusal(gzip.compress(tar(entry("../x"), entry("f", os.urandom(20 << 20))), 1))
    assert threading.active_count() == before
