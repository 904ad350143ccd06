"""The directory of a zip, and bounds: end records that differ, zips cut short, bombs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mmojo_forge.fetch.archive import ArchiveError, ArchiveLimits
from mmojo_forge.fetch.archive import zip as zip_format
from tests.unit.fetch.archive.test_bytes import Arena, ZipFile, deflate, end64, zip_of


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


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
    "record", [end64(2, 47, 34), end64(1, 1, 34), b"PK\6\6" + bytes(52) + end64(1, 47, 1 << 40)[-20:]]
)
def test_two_end_records_that_differ_are_refused(arena: Arena, record: bytes) -> None:
    assert arena.refusal(zip_of(ZipFile("f", b"x"), before_end=record)) == "archive-corrupt"


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


def test_bytes_between_the_entries_of_a_directory_and_its_end_are_refused(arena: Arena) -> None:
    data = zip_of(ZipFile("f", b"x"))
    size = data.index(b"PK\5\6") - data.index(b"PK\1\2")
    assert arena.refusal(zip_of(ZipFile("f", b"x"), before_end=bytes(9), end={"size": size + 9})) == "archive-corrupt"


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


def test_a_size_that_lies_costs_no_more_than_the_size(arena: Arena) -> None:
    arena.archive.write_bytes(zip_of(ZipFile("f", b"x" * 10, packed=deflate(bytes(50 << 20)))))
    descriptor = os.open(arena.archive, os.O_RDONLY)
    try:
        (found,) = zip_format.read_entries(descriptor, arena.archive.stat().st_size, ArchiveLimits())
        pieces = list[bytes]()
        with pytest.raises(ArchiveError, match="more content"):
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
