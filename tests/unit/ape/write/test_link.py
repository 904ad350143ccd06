"""Linking without a compiler: every byte of the result is where the headers, the shell part and the zip say."""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.format import elf, pe, script, slice_table
from mmojo_forge.ape.format.layout import BLOCK
from mmojo_forge.ape.read.container import describe, read_container
from mmojo_forge.ape.read.extract import extract
from mmojo_forge.ape.write.edit import append, assimilate
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import Asset, LinkSpec, SliceSpec
from tests.support.ape_samples import make_elf, make_pe, make_slice, write_inputs

SYSTEMS = ["linux-x86_64/v3", "linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-aarch64"]
BODIES = {name: name.encode() * 50 for name in SYSTEMS}


@pytest.fixture
def ape(tmp_path: Path) -> Path:
    return link(write_inputs(tmp_path / "in", BODIES), tmp_path / "sample.ape").path


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(SYSTEMS), st.binary(max_size=200_000), min_size=1))
def test_slices_are_aligned_apart_and_byte_exact(bodies: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = link(write_inputs(folder / "in", bodies), folder / "out")
        data = made.path.read_bytes()
        assert len(data) == made.size
        spans = [(0, made.manifest.front_size)]
        for record, (system, body) in zip(made.manifest.slices, bodies.items(), strict=True):
            expected = make_slice(system.partition("/")[0], body)
            assert record.offset % BLOCK == 0
            assert data[record.offset : record.offset + record.size] == expected
            assert record.sha256 == hashlib.sha256(expected).hexdigest()
            spans.append((record.offset, record.offset + record.size))
        spans += [(one.offset, one.offset + one.size) for one in made.manifest.launchers]
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        with zipfile.ZipFile(made.path) as archive:
            assert archive.testzip() is None
            for record in made.manifest.slices:
                assert hashlib.sha256(archive.read(record.entry)).hexdigest() == record.sha256
        assert read_container(made.path, verify=True).slices == made.manifest.slices


def test_the_same_inputs_elsewhere_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for number in ("1", "a longer folder name"):
        spec = write_inputs(tmp_path / number, BODIES)
        asset = tmp_path / number / "page"
        asset.write_bytes(b"page" * 1000)
        spec = LinkSpec(spec.program, spec.slices, spec.launchers, (Asset("web/page", asset), Asset("m", asset, True)))
        files.append(link(spec, tmp_path / number / "out").path.read_bytes())
    assert files[0] == files[1]


def test_the_shell_part_closes_the_quote_and_parses(ape: Path, tmp_path: Path) -> None:
    data = ape.read_bytes()
    assert data.startswith(b"MZqFpD='\n")
    closing = data.index(b"'", 8)
    (e_lfanew,) = struct.unpack_from("<I", data, 0x3C)
    assert e_lfanew == 64
    assert closing > e_lfanew
    assert data[closing - 1 : closing + 2] == b"\n'\n"
    end = data.index(b"exit 126\n", closing) + 9
    part = tmp_path / "part.sh"
    part.write_bytes(data[closing + 2 : end])
    assert subprocess.run(["sh", "-n", str(part)], check=False).returncode == 0


def test_the_shell_part_names_every_slice_where_it_lies(ape: Path) -> None:
    lines = re.findall(rb"^ape_slice (\S+) (\S+) (\S+) +(\d+) +(\d+)(.*)$", ape.read_bytes(), re.MULTILINE)
    found = [
        (n.decode(), s.decode(), h.decode(), int(b) * BLOCK, int(z), tuple(f.decode().split()))
        for n, s, h, b, z, f in lines
    ]
    assert found == [(r.name, r.system, r.sha256, r.offset, r.size, r.features) for r in read_container(ape).slices]


def test_pe_headers_describe_the_moved_launcher(ape: Path) -> None:
    data = ape.read_bytes()
    moved, original = pe.parse_pe(data, "ape"), pe.parse_pe(make_pe(), "sample")
    assert pe.QUOTE not in moved.headers
    (headers_size,) = struct.unpack_from("<I", data, 64 + 24 + 60)
    assert headers_size % 512 == 0
    assert 64 + len(moved.headers) <= headers_size <= min(section.address for section in moved.sections)
    for new, old in zip(moved.sections, original.sections, strict=True):
        assert (new.name, new.address, new.size) == (old.name, old.address, old.size)
        assert old.memory_size <= new.memory_size <= -(-max(old.memory_size, 1) // 4096) * 4096
        assert new.offset % 512 == 0
    text, rdata, bss = moved.sections
    assert data[text.offset :][: text.size] == b"\xc3" * 512
    assert bss.offset == 0
    assert data.find(slice_table.MAGIC, rdata.offset) == rdata.offset


def test_printed_elf_headers_follow_the_loaders_rules(ape: Path) -> None:
    """What APE's loaders check, and that the segments they map are the launcher's own."""
    data = ape.read_bytes()
    headers = script.decode_headers(data[:8192])
    assert len(headers) == 2
    for header, record in zip(headers, read_container(ape).launchers, strict=True):
        assert len(header) == 64
        parsed = elf.parse_elf(header + data[64:], "ape")
        elf.check_launcher(parsed, "ape")
        image = data[record.offset : record.offset + record.size]
        loads = [one for one in parsed.segments if one.kind == 1]
        for one, old in zip(loads, elf.parse_elf(image, "image").segments, strict=False):
            assert one.offset % BLOCK == one.address % BLOCK
            assert data[one.offset :][: one.file_size] == image[old.offset :][: old.file_size]
        assert record.entry == f"ape/launcher-linux-{parsed.machine}"


def test_launchers_carry_the_table_and_where_it_lies(ape: Path) -> None:
    data, made = ape.read_bytes(), read_container(ape)
    tables = [match.start() for match in re.finditer(re.escape(slice_table.MAGIC), data)]
    ours = [at for at in tables if struct.unpack_from("<Q", data, at + 24) == (at,)]
    assert len(ours) == 3  # two ELF launchers and the PE; the slices of these samples hold empty ones
    for at in ours:
        assert struct.unpack_from("<II", data, at + 16) == (slice_table.SIZE, len(made.slices))
        first = data[at + 160 :]
        assert first[:48].rstrip(b"\0").decode() == made.slices[0].name
        assert struct.unpack_from("<QQ", first, 72) == (made.slices[0].offset, made.slices[0].size)
        need = struct.unpack_from("<12I", first, 72 + 16 + 32)
        assert need == slice_table.encode_features("linux-x86_64", ["avx2"])


def test_assets_are_deflated_or_mapped(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"forge " * 5000)
    spec = write_inputs(tmp_path / "in", BODIES)
    assets = (Asset("web/größe.html", text), Asset("model.gguf", text, mapped=True))
    made = read_container(
        link(LinkSpec(spec.program, spec.slices, spec.launchers, assets), tmp_path / "o").path, verify=True
    )
    page, model = made.entries[-2:]
    assert (page.name, page.deflated) == ("web/größe.html", True)
    assert page.packed < page.size // 10
    assert (model.deflated, model.offset % BLOCK) == (False, 0)


def test_appending_gives_the_bytes_that_linking_would_have_given(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"forge " * 5000)
    assets = (Asset("web/page", text), Asset("model.gguf", text, mapped=True))
    spec = write_inputs(tmp_path / "in", BODIES)
    whole = link(LinkSpec(spec.program, spec.slices, spec.launchers, assets), tmp_path / "whole").path
    grown = link(spec, tmp_path / "grown").path
    append(grown, assets[:1])
    done = append(grown, assets[1:])
    assert done.names == ("model.gguf",)
    assert grown.read_bytes() == whole.read_bytes()


def test_a_failed_append_leaves_the_file_as_it_was(ape: Path, tmp_path: Path) -> None:
    before = ape.read_bytes()
    text = tmp_path / "text"
    text.write_bytes(b"x" * 100_000)
    with pytest.raises(ApeError) as caught:
        append(ape, [Asset("one", text, mapped=True), Asset("two", tmp_path / "missing")])
    assert caught.value.reason == "ape-input"
    assert ape.read_bytes() == before
    with pytest.raises(ApeError) as caught:
        append(ape, [Asset("one", text), Asset("one", text)])
    assert caught.value.reason == "ape-spec"
    assert ape.read_bytes() == before


def test_without_a_windows_launcher_no_mz_is_claimed(tmp_path: Path) -> None:
    spec = write_inputs(tmp_path / "in", {"linux-x86_64": b"x"})
    launchers = {"linux-x86_64": spec.launchers["linux-x86_64"]}
    made = link(LinkSpec(spec.program, spec.slices, launchers), tmp_path / "out").path
    assert made.read_bytes().startswith(b"jartsr='\n")
    ape = read_container(made, verify=True)
    assert (ape.pe, ape.elf_headers) == (None, ("linux-x86_64",))


def test_a_slice_can_be_taken_out_again(ape: Path, tmp_path: Path) -> None:
    done = extract(ape, "linux-x86_64-v3", tmp_path / "slice")
    assert done.path.read_bytes() == make_slice("linux-x86_64", BODIES["linux-x86_64/v3"])
    assert done.path.stat().st_mode & 0o111
    assert extract(ape, "ape/manifest.json", tmp_path / "m").size > 100
    with pytest.raises(ApeError) as caught:
        extract(ape, "linux-riscv64", tmp_path / "none")
    assert caught.value.reason == "ape-no-entry"
    assert not (tmp_path / "none").exists()


def test_assimilating_changes_64_bytes_and_nothing_else(ape: Path, tmp_path: Path) -> None:
    before = ape.read_bytes()
    done = assimilate(ape, "linux-aarch64", tmp_path / "native")
    after = done.path.read_bytes()
    assert after[64:] == before[64:]
    assert after[:64] == script.decode_headers(before[:8192])[0]
    assert ape.read_bytes() == before
    native = read_container(done.path, verify=True)
    assert native.assimilated == "linux-aarch64"
    assert native.pe is not None
    assimilate(ape, "linux-x86_64")
    assert read_container(ape).assimilated == "linux-x86_64"
    with pytest.raises(ApeError) as caught:
        assimilate(ape, "macos-aarch64")
    assert caught.value.reason == "ape-no-header"


def test_describe_is_plain_json_values(ape: Path) -> None:
    facts: dict[str, Any] = describe(read_container(ape))
    assert facts["schema"] == 1
    assert [one["name"] for one in facts["slices"]][:2] == ["linux-x86_64-v3", "linux-x86_64"]
    assert facts["pe"]["subsystem"] == 3


def link_with(tmp_path: Path, system: str, image: bytes) -> None:
    spec = write_inputs(tmp_path / "in", {"linux-x86_64": b""})
    path = tmp_path / "launcher"
    path.write_bytes(image)
    link(LinkSpec(spec.program, spec.slices, {**spec.launchers, system: path}), tmp_path / "out")


def test_a_quote_in_the_pe_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApeError) as caught:
        link_with(tmp_path, "windows-x86_64", make_pe(entry=0x1027))
    assert caught.value.reason == "ape-pe-quote"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "image",
    [
        make_elf("linux-aarch64"),
        make_elf("linux-x86_64", kind=3),
        make_elf("linux-x86_64", extra_type=3),
        make_elf("linux-x86_64", extra_type=2),
        make_elf("linux-x86_64").replace(slice_table.MAGIC, bytes(16)),
        make_elf("linux-x86_64", slice_table.MAGIC),
        make_elf("linux-x86_64").replace(
            struct.pack("<I", slice_table.SIZE), struct.pack("<I", slice_table.SIZE + 8), 1
        ),
        make_pe(),
        b"",
    ],
    ids=["machine", "pie", "interpreter", "dynamic", "no table", "two tables", "other table", "pe", "empty"],
)
def test_a_launcher_that_cannot_work_is_refused(tmp_path: Path, image: bytes) -> None:
    with pytest.raises(ApeError) as caught:
        link_with(tmp_path, "linux-x86_64", image)
    assert caught.value.reason == "ape-launcher"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "launcher"]


def test_a_slice_for_another_system_is_refused(tmp_path: Path) -> None:
    spec = write_inputs(tmp_path / "in", {"linux-aarch64": b""})
    wrong = SliceSpec("linux-x86_64", spec.slices[0].path)
    with pytest.raises(ApeError) as caught:
        link(LinkSpec("p", (wrong,), spec.launchers), tmp_path / "out")
    assert caught.value.reason == "ape-slice"
    missing = SliceSpec("linux-x86_64", tmp_path / "missing")
    with pytest.raises(ApeError) as caught:
        link(LinkSpec("p", (missing,), spec.launchers), tmp_path / "out")
    assert caught.value.reason == "ape-input"
