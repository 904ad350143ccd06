"""Where the pieces of an APE lie, and the zip records that say so."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.content import Content
from mmojo_forge.ape.format import layout, zip_directory
from mmojo_forge.ape.format.layout import BLOCK, Piece
from mmojo_forge.ape.write.entry_writer import EntryWriter

pieces = st.builds(
    Piece,
    head=st.integers(0, 70000),
    size=st.integers(0, 5 << 30),
    align=st.sampled_from([1, 8, 512, 4096, BLOCK]),
)


@given(st.integers(0, 1 << 34), st.lists(pieces, max_size=20))
def test_pieces_are_aligned_in_order_and_do_not_overlap(start: int, wanted: list[Piece]) -> None:
    places = layout.place_pieces(start, wanted)
    assert len(places) == len(wanted)
    for place, piece in zip(places, wanted, strict=True):
        assert place.data % piece.align == 0
        assert place.data - place.head == piece.head
        assert place.end - place.data == piece.size
        assert start <= place.head < start + piece.align
        start = place.end


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0\\"), min_size=1, max_size=20)


@given(st.lists(st.tuples(names, st.binary(max_size=300), st.booleans()), max_size=8, unique_by=lambda one: one[0]))
def test_entries_are_read_back_by_pythons_zipfile(wanted: list[tuple[str, bytes, bool]]) -> None:
    stream = io.BytesIO()
    writer = EntryWriter(stream)
    stream.write(b"front")
    at = {}
    for name, data, stored in wanted:
        if stored:
            at[name] = writer.add_stored(name, content.measure_bytes(data), [data], align=512)
        else:
            writer.add_deflated(name, content.measure_bytes(data), [data[:7], data[7:]])
    writer.finish()
    with zipfile.ZipFile(stream) as archive:
        assert archive.testzip() is None
        assert [info.filename for info in archive.infolist()] == [name for name, _, _ in wanted]
        for name, data, _ in wanted:
            assert archive.read(name) == data
    for name, data, stored in wanted:
        if stored:
            assert at[name] % 512 == 0
            assert stream.getvalue()[at[name] :].startswith(data)


def test_entries_beyond_4_gib_are_read_back(tmp_path: Path) -> None:
    """A sparse file stands for gigabytes: an entry of 5 GiB, and a small one behind it."""
    path, big = tmp_path / "big.zip", 5 << 30
    with path.open("w+b") as stream:
        writer = EntryWriter(stream)
        start = writer.add_stored("model.gguf", Content(big, 0, ""), [])
        stream.seek(start + big)
        data = b"behind"
        behind = writer.add_stored("behind", content.measure_bytes(data), [data])
        writer.finish()
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("model.gguf").file_size == big
        assert archive.getinfo("model.gguf").header_offset < start
        assert archive.getinfo("behind").header_offset > big
        assert archive.read("behind") == data
        assert behind % BLOCK == 0


def test_more_entries_than_16_bits_count_are_read_back() -> None:
    entries = [zip_directory.ZipRecord(f"{number}", zip_directory.STORED, 0, 0, 0) for number in range(70000)]
    with zipfile.ZipFile(io.BytesIO(zip_directory.encode_directory(entries, 0))) as archive:
        assert len(archive.infolist()) == 70000
