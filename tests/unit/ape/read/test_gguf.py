"""GGUF heads: what they say, and that neither a cut nor a hostile one costs more than an error."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.read.gguf import Gguf, read_gguf
from tests.support.ape_samples.gguf import make_gguf, make_head, text, write_sparse

WHOLE = make_gguf()
HEAD, DATA = make_head()


def read(data: bytes) -> Gguf:
    return read_gguf(io.BytesIO(data), 0, len(data), "sample.gguf")


def refusal(data: bytes) -> str:
    with pytest.raises(ApeError) as caught:
        read(data)
    assert caught.value.reason == "ape-model"
    assert caught.value.message.startswith("model sample.gguf: ")
    return caught.value.message


def test_what_a_model_says_of_itself_is_read() -> None:
    data = make_gguf(values={"general.type": "model", "split.no": 1, "split.count": 3})
    assert read(data) == Gguf("llama", "model", "sample", 32 * 64 + 32 * 8, "Q8_0", len(data), 1, 3)


def test_version_2_reads_like_version_3() -> None:
    assert read(make_gguf(version=2)) == read(WHOLE)


def test_a_model_inside_another_file_is_read_where_it_lies() -> None:
    stream = io.BytesIO(b"x" * 777 + WHOLE + b"y" * 99)
    assert read_gguf(stream, 777, len(WHOLE), "inner") == read(WHOLE)
    with pytest.raises(ApeError):
        read_gguf(stream, 777, len(WHOLE) - 1, "inner")


def test_every_truncation_is_noticed() -> None:
    steps = [*range(0, 400), *range(400, len(WHOLE), 37), len(WHOLE) - 1]
    for size in steps:
        message = refusal(WHOLE[:size])
        assert "cut short" in message or size < 4, size


def test_a_model_with_more_bytes_than_it_needs_is_whole() -> None:
    assert read(WHOLE + b"x").parameters == read(WHOLE).parameters


def test_the_head_of_a_split_may_have_no_tensors() -> None:
    assert read(make_gguf(tensors=())).quantization == ""


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"GGML" + WHOLE[4:], "not a GGUF"),
        (b"PK\3\4" + bytes(400), "not a GGUF"),
        (struct.pack("<4sIqq", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack("<4sIqq", b"GGUF", 4, 0, 0), "version 4"),
        (struct.pack(">4sIqq", b"GGUF", 3, 0, 0), "byte order"),
        (struct.pack("<4sIqq", b"GGUF", 3, -1, 0), "cannot be"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 1 << 40), "cannot be"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 50), "a key of"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<I", 77), "unknown type"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1), "impossible array"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 0, 1 << 60), "impossible array"),
        (struct.pack("<4sIqq", b"GGUF", 3, 0, 2) + (text("a") + struct.pack("<IB", 0, 0)) * 2, "two keys"),
        (make_gguf(values={"general.alignment": 48}), "alignment"),
        (make_gguf(values={"general.alignment": 0}), "alignment"),
        (make_gguf(values={"general.alignment": "x"}), "alignment"),
        (make_gguf(tensors=[("a", (32, 2), 0)] * 2), "two tensors"),
        (make_gguf(tensors=[("a" * 65, (32,), 0)]), "65 bytes"),
        (make_gguf(tensors=[("a", (33,), 8)]), "no multiple of 32"),
        (make_gguf(tensors=[("a", (1, 1, 1, 1, 1), 0)]), "5 dimensions"),
        (make_head(tensors=[("a", (-1,), 0)])[0], "impossible shape"),
        (make_head(tensors=[("a", (1 << 40, 1 << 40), 0)])[0], "impossible shape"),
    ],
)
def test_what_cannot_be_a_model_is_refused(data: bytes, cause: str) -> None:
    assert cause in refusal(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(HEAD) - 1), st.binary(min_size=1, max_size=9))
def test_any_change_of_a_head_is_read_or_refused(at: int, change: bytes) -> None:
    data = WHOLE[:at] + change + WHOLE[at + len(change) :]
    try:
        read(data)
    except ApeError as error:
        assert error.reason == "ape-model"


def test_a_model_of_many_gigabytes_costs_its_head(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "large.gguf", 20 << 30)
    with path.open("rb") as stream:
        found = read_gguf(stream, 0, path.stat().st_size, "large")
        assert found.parameters == 5 << 30
        assert stream.tell() < 1 << 20


@pytest.mark.parametrize("count", [1, 3, 70_000])
@pytest.mark.parametrize("size", [0, 7, 262_136, 262_144, 700_000])
def test_texts_of_any_size_and_number_are_passed_over(count: int, size: int) -> None:
    if count * size > 1 << 24:
        count = 5
    data = make_gguf(values={"texts": ["x" * size] * count, "general.type": "model"})
    assert read(data).kind == "model"
    assert "cut short" in refusal(data[: data.index(b"general.type") - 20])
