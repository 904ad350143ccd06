"""Tar archives: what others read out of them, and that their bytes are always the same."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.ape.errors import ApeError, OciError
from mmojo_forge.ape.oci.tar import Bytes, FilePart, Hashed, Tar, TarMember, whole_file

MEMBERS = (
    TarMember("folder", 0o755),
    TarMember("folder/file", 0o644, Bytes(b"content"), 65532),
    TarMember("folder/" + "long" * 60, 0o555, Bytes(b"x" * 512)),
    TarMember("größe 漢字", 0o644, Bytes(b"")),
    TarMember("tmp", 0o1777),
)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=300)


def written(tar: Tar) -> bytes:
    return b"".join(tar.chunks())


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return {one.name: one for one in archive}


def test_others_read_what_was_written() -> None:
    data = written(Tar(MEMBERS))
    found = members(data)
    assert list(found) == [one.name for one in MEMBERS]
    for one in MEMBERS:
        info = found[one.name]
        assert (info.mode, info.uid, info.gid, info.size) == (one.mode, one.owner, one.owner, one.size)
        assert (info.mtime, info.uname, info.gname, info.isdir()) == (1, "", "", one.source is None)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {one.name: read(archive, one.name) for one in MEMBERS if one.source} == {
            one.name: b"".join(one.source.chunks()) for one in MEMBERS if one.source
        }


def read(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None
    return stream.read()


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1100)), unique_by=lambda one: one[0], max_size=4))
def test_any_name_and_content_comes_back_and_the_size_is_known_beforehand(files: list[tuple[str, bytes]]) -> None:
    tar = Tar(tuple(TarMember(name, 0o644, Bytes(data)) for name, data in files))
    data = written(tar)
    assert len(data) == tar.size
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        assert [(one.name, read(archive, one.name)) for one in archive] == files


def test_the_bytes_are_the_same_everywhere() -> None:
    """A golden value: another one means that every image gets another digest."""
    found = hashlib.sha256(written(Tar(MEMBERS))).hexdigest()
    assert found == "91f6b715a11744986b719cb0aa5b4b14bebac1805ca11c7275c26a7d14aea6e5"


@dataclass(frozen=True, slots=True)
class Huge:
    """A source that says it is larger than ustar can say, and has fewer bytes."""

    size: int = 9 << 30

    def chunks(self) -> Iterator[bytes]:
        yield b"start of a model"


def test_a_file_larger_than_8_gib_has_its_size_in_a_pax_record() -> None:
    member = TarMember("model.gguf", 0o644, Huge())
    head = member.encode()
    assert len(head) == 3 * 512
    with tarfile.open(fileobj=io.BytesIO(head + b"start".ljust(512)), mode="r:") as archive:
        first = archive.next()
        assert first is not None
        assert (first.name, first.size) == ("model.gguf", 9 << 30)
    assert Tar((member,)).size == 3 * 512 + (9 << 30) + 1024


@pytest.mark.parametrize("size", [8**11 - 1, 8**11])
def test_the_border_of_ustar_sizes(size: int) -> None:
    assert len(TarMember("a", 0o644, Huge(size)).encode()) == (512 if size < 8**11 else 3 * 512)


def test_a_part_of_a_file_is_checked_against_its_crc(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"....content....")
    whole = FilePart(path, 4, 7, zlib.crc32(b"content"))
    assert b"".join(whole.chunks()) == b"content"
    path.write_bytes(b"....c0ntent....")
    with pytest.raises(OciError) as caught:
        list(whole.chunks())
    assert caught.value.reason == "oci-changed"


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    part = whole_file(path)
    path.write_bytes(b"01234")
    with pytest.raises(OciError) as caught:
        list(part.chunks())
    assert caught.value.reason == "oci-changed"


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(ApeError) as caught:
        whole_file(tmp_path / "none")
    assert caught.value.reason == "ape-input"


def test_a_source_that_was_read_tells_its_hash() -> None:
    hashed = Hashed(Bytes(b"content"))
    assert hashed.sha256 == ""
    assert list(hashed.chunks()) == [b"content"]
    assert hashed.sha256 == hashlib.sha256(b"content").hexdigest()
