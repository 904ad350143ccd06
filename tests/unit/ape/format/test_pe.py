"""What signing writes into the headers of an APE must hold no quote."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.format.pe import PeImage, check_signed_headers, choose_size, parse_pe
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.edit import append
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset
from tests.support.ape_samples import write_inputs
from tests.support.ape_samples.packages import make_server, package, write

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


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        (0, 0),
        (4099, 4099),
        (0x26F9, 0x2800),
        (0x27FF, 0x27FF),
        (0x270000, 0x280000),
        (0x27002701, 0x28000000),
        (0x12272701, 0x12280000),
        (0x127FFFFF, 0x127FFFFF),
        ((1 << 32) + 0x2700, (1 << 32) + 0x2700),
    ],
)
def test_a_file_gets_a_size_at_which_a_signature_has_no_quote(size: int, chosen: int) -> None:
    assert choose_size(size) == chosen
    offset = -(-chosen // 8) * 8
    assert chosen >= 1 << 32 or 0x27 not in offset.to_bytes(4, "little")


def test_whatever_is_packaged_no_signature_would_be_at_a_quote(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    base = server.stat().st_size
    # What the file has grown to when the second byte of its size is a quote.
    wanted = (base & ~0xFFFF) + 0x12730 + 1
    filler = write(tmp_path / "filler", bytes(wanted - base - 200))
    for more in range(0, 400, 7):
        filler.write_bytes(bytes(wanted - base - 200 + more))
        (product,) = package(server, tmp_path / "x.ape", files=(NamedFile("f", filler),))
        size = product.path.stat().st_size
        assert size == product.size
        assert 0x27 not in (-(-size // 8) * 8).to_bytes(4, "little")
    read_container(product.path, verify=True)
    with zipfile.ZipFile(product.path) as archive:
        assert archive.testzip() is None
    (again,) = package(product.path, tmp_path / "y.ape")
    assert again.path.read_bytes() == product.path.read_bytes()
    append(product.path, [Asset("g", filler)])
    assert read_container(product.path, verify=True)


def test_a_quote_is_found_where_a_file_is_looked_at(tmp_path: Path) -> None:
    path = make_server(tmp_path / "server")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, CHECK_SUM, 0x2700)
    struct.pack_into("<II", data, TABLE, len(data) + -len(data) % 8, 8)
    path.write_bytes(bytes(data) + bytes(-len(data) % 8 + 8))
    with pytest.raises(ApeError) as caught:
        read_container(path)
    assert caught.value.reason == "ape-pe-quote"
    # What is packaged is signed anew.
    (product,) = package(path, tmp_path / "x.ape", name="hello")
    assert read_container(product.path, verify=True).pe
