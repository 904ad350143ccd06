"""Zip directories: what a writer makes is read back, and what no writer should make is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.content import measure_bytes
from mmojo_forge.ape.format.zip_directory import Directory, ZipRecord, encode_directory, read_directory
from mmojo_forge.ape.write.entry_writer import EntryWriter

NAMES = st.from_regex(r"[a-zäü]{1,6}(/[a-z]{1,4}){0,2}", fullmatch=True)


def make_zip(files: dict[str, bytes], *, front: bytes = b"program", align: int = 1) -> bytes:
    stream = io.BytesIO(front)
    stream.seek(len(front))
    writer = EntryWriter(stream)
    for name, data in files.items():
        writer.add_stored(name, measure_bytes(data), [data], align=align)
    writer.finish()
    return stream.getvalue()


def read(data: bytes, *, padded: bool = False) -> Directory:
    found = read_directory(io.BytesIO(data), len(data), "sample", padded=padded)
    assert found is not None
    return found


def refusal(data: bytes) -> str:
    with pytest.raises(ApeError) as caught:
        read(data)
    assert caught.value.reason == "ape-altered"
    return caught.value.message.removeprefix("sample: altered: ")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=300), max_size=6), st.binary(max_size=100))
def test_what_is_written_is_read_back(files: dict[str, bytes], front: bytes) -> None:
    data = make_zip(files, front=front)
    found = read(data)
    assert [entry.name for entry in found.entries] == list(files)
    for entry in found.entries:
        assert b"".join(content.read_entry(io.BytesIO(data), entry, "sample")) == files[entry.name]
        assert data[entry.offset : entry.offset + entry.size] == files[entry.name]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_zips_of_others_are_read(tmp_path: Path, compression: int) -> None:
    """With a program before them, as `zip` and Python add to one."""
    path = tmp_path / "other"
    path.write_bytes(b"program" * 100)
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr("größe", b"x" * 1000)
        with archive.open("wide", "w", force_zip64=True) as stream:
            stream.write(b"y" * 10)
    data = path.read_bytes()
    found = read(data)
    texts = [b"".join(content.read_entry(io.BytesIO(data), entry, "o")) for entry in found.entries]
    assert texts == [b"x" * 1000, b"y" * 10]
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment"
    assert read(path.read_bytes()).entries == found.entries


def test_a_zip_without_entries_is_one() -> None:
    assert read(make_zip({})).entries == ()


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\5\6", b"PK\5\6" + bytes(17), make_zip({"a": b"b"})[:-1]])
def test_where_no_zip_ends_there_is_none(data: bytes) -> None:
    assert read_directory(io.BytesIO(data), len(data), "sample") is None


def test_zeros_may_follow_only_where_a_signature_does() -> None:
    data = make_zip({"a": b"b"})
    for count in range(1, 8):
        assert read(data + bytes(count), padded=True).entries == read(data).entries
        assert read_directory(io.BytesIO(data + bytes(count)), len(data) + count, "sample") is None
    assert read_directory(io.BytesIO(data + bytes(8)), len(data) + 8, "sample", padded=True) is None
    assert read_directory(io.BytesIO(data + b"x"), len(data) + 1, "sample", padded=True) is None


def rebuilt(change: Callable[[list[ZipRecord]], list[ZipRecord]], *, shift: int = 0) -> bytes:
    """A zip whose directory says what `change` makes of it."""
    stream = io.BytesIO()
    writer = EntryWriter(stream)
    for name in ("one", "two"):
        writer.add_stored(name, measure_bytes(b"content"), [b"content"], align=1)
    at = stream.tell()
    stream.write(encode_directory(change(writer.entries), at + shift))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda all_: [all_[0], all_[0]], "two entries are called one"),
        (lambda all_: [*all_, replace(all_[0], name="two", offset=all_[1].offset)], "two entries are called two"),
        (lambda all_: [all_[0], replace(all_[1], offset=all_[0].offset)], "says otherwise"),
        (lambda all_: [all_[0], replace(all_[1], name="six")], "says otherwise"),
        (lambda all_: [all_[0], replace(all_[1], crc=1)], "says otherwise"),
        (lambda all_: [all_[0], replace(all_[1], method=8)], "says otherwise"),
        (lambda all_: [all_[0], replace(all_[1], offset=1 << 20)], "outside of the file"),
        (lambda all_: [all_[0], replace(all_[1], offset=1 << 40)], "outside of the file"),
        (lambda all_: [replace(all_[0], packed=900, size=900), all_[1]], "outside of the file"),
        (lambda all_: [replace(all_[0], packed=20, size=20), all_[1]], "overlap"),
        (lambda all_: [replace(all_[0], packed=3), all_[1]], "its record is broken"),
        (lambda all_: [all_[0], replace(all_[1], offset=all_[1].offset + 1)], "no local header"),
    ],
)
def test_a_directory_that_is_not_sound_is_refused(
    change: Callable[[list[ZipRecord]], list[ZipRecord]], cause: str
) -> None:
    assert cause in refusal(rebuilt(change))


def test_two_entries_that_share_their_bytes_are_refused() -> None:
    inner = ZipRecord("in", 0, zlib.crc32(b"x"), 1, 1).encode_local() + b"x"
    stream = io.BytesIO()
    writer = EntryWriter(stream)
    writer.add_stored("outer", measure_bytes(inner), [inner], align=1)
    at = stream.tell() - len(inner)
    writer.entries.append(ZipRecord("in", 0, zlib.crc32(b"x"), 1, 1, at))
    writer.finish()
    assert "overlap" in refusal(stream.getvalue())


def test_an_offset_that_does_not_count_from_the_files_start_is_refused() -> None:
    assert "not where its end says" in refusal(b"front" + make_zip({"a": b"b"}))
    assert "not where its end says" in refusal(rebuilt(list, shift=5))
    assert "out of reach" in refusal(rebuilt(list, shift=1 << 33))


def patched(data: bytes, at: int, value: bytes) -> bytes:
    at = at if at >= 0 else len(data) + at
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("at", "value", "cause"),
    [
        (-18, b"\1", "several parts"),
        (-14, b"\2", "several parts"),
        (-10, b"\xff\xff\xff\x7f", "not where its end says"),
        (-22 - 46 - 1, b"x", "broken"),
        (-22 - 46 - 1 + 8, b"\1", "encrypted"),
        (-22 - 46 - 1 + 28, b"\xff\xff", "broken"),
        (-22 - 46 - 1 + 30, b"\7", "broken"),
        (-22 - 46 - 1 + 24, b"\xff\xff\xff\xff", "sizes are missing"),
        (-22 - 46 - 1 + 34, b"\7", "its record is broken"),
    ],
)
def test_a_broken_record_is_refused(at: int, value: bytes, cause: str) -> None:
    assert cause in refusal(patched(make_zip({"a": b"b"}), at, value))


def test_a_zip64_end_record_that_leads_nowhere_is_refused() -> None:
    files = {f"{number:05}": b"" for number in range(0xFFFF)}
    data = make_zip(files)
    assert len(read(data).entries) == 0xFFFF
    at = data.rindex(b"PK\6\7")
    assert "out of reach" in refusal(patched(data, at + 8, struct.pack("<Q", len(data))))
    assert "broken" in refusal(patched(data, at + 8, struct.pack("<Q", 4)))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.integers(1, 255))
def test_any_changed_byte_is_read_or_refused(at: int, mask: int) -> None:
    data = bytearray(make_zip({"one": b"1" * 50, "two/größe": b"2" * 50}))
    data[at % len(data)] ^= mask
    try:
        read_directory(io.BytesIO(data), len(data), "sample")
    except ApeError as error:
        assert error.reason == "ape-altered"


def test_content_that_is_not_what_the_crc_says_is_refused() -> None:
    data = make_zip({"a": b"content"})
    (entry,) = read(data).entries
    for bad in (
        patched(data, entry.offset, b"C"),
        data[: entry.offset + 3],
    ):
        with pytest.raises(ApeError) as caught:
            list(content.read_entry(io.BytesIO(bad), entry, "sample"))
        assert caught.value.reason == "ape-altered"


def test_an_entry_that_unpacks_to_more_than_it_says_is_cut_off() -> None:
    """A zip bomb: what comes out is bounded by what the directory promised, whatever the stream holds."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(bytes(64 << 20)) + packer.flush()
    entry = replace(read(make_zip({"a": packed})).entries[0], method=8, size=100, packed=len(packed))
    got = 0
    with pytest.raises(ApeError) as caught:
        for chunk in content.read_entry(io.BytesIO(make_zip({"a": packed})), entry, "sample"):
            got += len(chunk)
    assert caught.value.reason == "ape-altered"
    assert got <= 100


def test_a_text_is_read_whole_only_if_it_is_small() -> None:
    entry = replace(read(make_zip({"a": b"b"})).entries[0], size=17 << 20)
    with pytest.raises(ApeError) as caught:
        content.read_entry_text(io.BytesIO(), entry, "sample")
    assert caught.value.reason == "ape-altered"
