"""An APE that was cut short or altered, and what is no APE: a clear reason, never a traceback."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.format import manifest
from mmojo_forge.ape.read.container import read_container
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset, LinkSpec
from tests.support.ape_samples import make_elf, write_inputs

BODIES = {"linux-x86_64": b"one" * 30000, "macos-aarch64": b"two"}
shared = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ape")
    spec = write_inputs(folder / "in", BODIES)
    (folder / "asset").write_bytes(b"asset " * 100)
    spec = LinkSpec(spec.program, spec.slices, spec.launchers, (Asset("asset", folder / "asset"),))
    return link(spec, folder / "out").path


def reason_of(path: Path, *, verify: bool = True) -> str:
    with pytest.raises(ApeError) as caught:
        read_container(path, verify=verify)
    assert str(path) in caught.value.message
    return caught.value.reason


@shared
@given(st.integers(min_value=0))
@example(0)
@example(7)
@example(8)
@example(64)
def test_every_truncation_is_noticed(whole: Path, tmp_path: Path, cut: int) -> None:
    data = whole.read_bytes()
    path = tmp_path / "cut"
    kept = data[: cut % len(data)]
    path.write_bytes(kept)
    assert reason_of(path, verify=False) == ("ape-truncated" if len(kept) >= 8 else "ape-not-an-ape")


def covered(path: Path) -> list[range]:
    """The front and every entry's data: all but zeros between pieces, and records that say nothing new."""
    ape = read_container(path, verify=True)
    with zipfile.ZipFile(path) as archive:
        front: int = json.loads(archive.read(manifest.NAME))["front_size"]
    return [range(front), *(range(entry.offset, entry.offset + entry.packed) for entry in ape.entries)]


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@shared
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(1, 255))
@example(which=6, where=0, mask=1)
def test_an_altered_byte_is_noticed(whole: Path, tmp_path: Path, which: int, where: int, mask: int) -> None:
    """A deflated asset has more than one way to say the same bytes (the example is its "last block" bit): what is
    vouched for is what comes out. Everything else is vouched for byte by byte.
    """
    regions = covered(whole)
    region = regions[which % len(regions)]
    at = region[where % len(region)]
    changed = bytearray(whole.read_bytes())
    changed[at] ^= mask
    path = tmp_path / "altered"
    path.write_bytes(changed)
    if region == regions[-1]:
        try:
            read_container(path, verify=True)
        except ApeError as error:
            assert error.reason == "ape-altered"
        else:
            assert contents(path) == contents(whole)
        return
    assert reason_of(path) in {"ape-altered", "ape-foreign"} | ({"ape-not-an-ape"} if at < 8 else set())


def test_a_zip_tool_that_moved_entries_is_noticed(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    path, other = tmp_path / "moved", tmp_path / "other.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for info in old.infolist():
            new.writestr(info, old.read(info))
    path.write_bytes(data[:64] + data[64:4096] + other.read_bytes())
    assert reason_of(path, verify=False) == "ape-altered"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"PK\5\6" + bytes(18), make_elf("linux-x86_64")])
def test_other_files_are_not_apes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert reason_of(path) == "ape-not-an-ape"


def test_an_ape_of_another_linker_is_called_foreign(tmp_path: Path) -> None:
    path = tmp_path / "cosmo"
    path.write_bytes(b"MZqFpD='\n" + bytes(600))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(".cosmo", b"")
    assert reason_of(path) == "ape-foreign"


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "missing") == "ape-input"
    assert reason_of(tmp_path) == "ape-input"
