"""What signing writes into the headers of an APE must hold no quote."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mmojo_forge.ape.authenticode import check_signed_headers
from mmojo_forge.ape.error import ApeError
from mmojo_forge.ape.link import link
from mmojo_forge.ape.pe import PeImage, parse_pe
from tests.ape_samples import write_inputs

CHECK_SUM = 64 + 24 + 64
TABLE = 64 + 24 + 112 + 4 * 8


def signed(folder: Path, checksum: int, offset: int, size: int) -> PeImage:
    """The headers of an APE after a tool that wrote these numbers."""
    path = link(write_inputs(folder, {"windows-x86_64": b"w"}), folder / "out.exe").path
    data = bytearray(path.read_bytes()[:4096])
    struct.pack_into("<I", data, CHECK_SUM, checksum)
    struct.pack_into("<II", data, TABLE, offset, size)
    return parse_pe(bytes(data), "signed")


def test_numbers_without_a_quote_are_fine(tmp_path: Path) -> None:
    check_signed_headers(signed(tmp_path, 0x0678A086, 108539208, 1472), "file")
    # Not signed: whatever stands there was checked when it was linked.
    check_signed_headers(signed(tmp_path, 0x27, 0, 0), "file")


@pytest.mark.parametrize(
    "numbers, word",
    [
        ((0x27, 4096, 1472), "checksum"),
        ((0x27000000, 4096, 1472), "checksum"),
        ((0, 0x2708, 1472), "offset"),
        ((0, 0x270000, 1472), "offset"),
        ((0, 4096, 0x2710), "size"),
    ],
)
def test_a_quote_is_told_with_a_remedy(tmp_path: Path, numbers: tuple[int, int, int], word: str) -> None:
    with pytest.raises(ApeError) as caught:
        check_signed_headers(signed(tmp_path, *numbers), "file.exe")
    assert caught.value.reason == "ape-pe-quote"
    assert word in caught.value.message
    assert caught.value.detail
    assert ("seek=152" in caught.value.detail) == (word == "checksum")
