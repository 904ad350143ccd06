"""Copying: the bytes and their CRC, with and without the kernel's help, over holes, and when a file ends too early."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.files import copying
from mmojo_forge.ape.files.copying import CopySpan, CutShort, copy_span, crc_of_zeros, join_crc


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_joined_checksums_are_those_of_the_whole(one: bytes, other: bytes) -> None:
    assert join_crc(zlib.crc32(one), zlib.crc32(other), len(other)) == zlib.crc32(one + other)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1 << 20, (1 << 20) + 3])
def test_the_checksum_of_zeros_needs_no_zeros(size: int) -> None:
    assert crc_of_zeros(size) == zlib.crc32(bytes(size))


def test_the_checksum_of_many_zeros_is_found_at_once() -> None:
    half = crc_of_zeros(1 << 39)
    assert crc_of_zeros(1 << 40) == join_crc(half, half, 1 << 39)


def refuse(code: int) -> object:
    def call(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


def pretend(*_: object, **__: object) -> int:
    return 0


@pytest.fixture(params=["kernel", "other file system", "old kernel", "pretends", "missing"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "other file system":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
    elif request.param == "old kernel":
        monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSYS))
    elif request.param == "pretends":
        monkeypatch.setattr(os, "copy_file_range", pretend)
    elif request.param == "missing":
        monkeypatch.delattr(os, "copy_file_range")
    yield request.param


def copy(source: Path, out: Path, at: int, size: int, *, offset: int = 0, checksum: bool = True) -> tuple[int, int]:
    """The CRC, and how many bytes were told of."""
    told: list[int] = []
    with source.open("rb") as stream, out.open("w+b") as to:
        span = CopySpan(stream.fileno(), at, to.fileno(), offset, size)
        crc = copy_span(span, told.append, checksum=checksum)
        to.truncate(offset + size)
    return crc, sum(told)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [0, 1, 4096, 40_000_001])
def test_bytes_and_checksum_are_right(kernel: str, tmp_path: Path, size: int, checksum: bool) -> None:
    data = (os.urandom(1000) * (size // 1000 + 2))[: size + 10]
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(data)
    assert copy(source, out, 7, size, offset=5, checksum=checksum) == (
        zlib.crc32(data[7 : 7 + size]) if checksum else 0,
        size,
    )
    assert out.read_bytes() == bytes(5) + data[7 : 7 + size]


@pytest.mark.parametrize("checksum", [True, False])
def test_holes_stay_holes_and_count(kernel: str, tmp_path: Path, checksum: bool) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    with source.open("wb") as stream:
        for at in (1 << 20, 90 << 20):
            stream.seek(at)
            stream.write(b"here" * 1000)
        stream.truncate(100 << 20)
    start, size = 4096 * 3, (97 << 20) + 17
    crc, told = copy(source, out, start, size, checksum=checksum)
    data = source.read_bytes()[start : start + size]
    assert out.read_bytes() == data
    assert (crc, told) == (zlib.crc32(data) if checksum else 0, size)
    if source.stat().st_blocks * 512 < 1 << 20:
        assert out.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("checksum", [True, False])
def test_a_source_that_ends_too_early_is_an_error(kernel: str, tmp_path: Path, checksum: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    with pytest.raises(CutShort):
        copy(source, tmp_path / "out", 500, 501, checksum=checksum)


def test_an_error_of_the_disk_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        copy(source, tmp_path / "out", 0, 1000)


def test_a_copy_in_pieces_is_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PIECE", 4096)
    data = os.urandom(123_457)
    (tmp_path / "source").write_bytes(data)
    assert copy(tmp_path / "source", tmp_path / "out", 0, len(data)) == (zlib.crc32(data), len(data))
    assert (tmp_path / "out").read_bytes() == data
