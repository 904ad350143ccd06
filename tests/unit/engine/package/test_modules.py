"""What `forge package --module` realises and packs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.package.modules import find_modules, targets_of
from mmojo_forge.engine.sbom.bom import Bill, BomItem
from tests.support.ape_samples import write_inputs
from tests.support.ape_samples.modules import make_module
from tests.support.ape_samples.packages import make_server


def write_elf(path: Path, *segments: int) -> Path:
    """An ELF program for x86-64 Linux with segments of these kinds."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0x400000, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 5, 0, 0x400000, 0x400000, 64, 64, 4096) for kind in segments)
    path.write_bytes(header + table)
    path.chmod(0o755)
    return path


def test_an_ape_wants_the_programs_that_load_modules(tmp_path: Path) -> None:
    server = make_server(tmp_path)
    assert targets_of(["ggml-cuda", "ggml-vulkan"], server) == ("ggml-cuda", "ggml-vulkan", "mmojo-server.hosts")
    assert targets_of(["./ggml-cuda"], server) == ("mmojo-server.hosts",)
    assert targets_of(["./ggml-cuda", "./host"], server) == ()
    assert targets_of(["./ggml-cuda", "out/mmojo-server.hosts", "x/abc-mmojo-server-hosts"], server) == ()
    assert targets_of([], server) == ()
    assert targets_of(["ggml-cuda", "ggml-cuda"], server) == ("ggml-cuda", "mmojo-server.hosts")
    assert targets_of(["mmojo-server.hosts", "ggml-cuda"], server) == ("mmojo-server.hosts", "ggml-cuda")


def test_a_program_that_loads_them_itself_wants_none(tmp_path: Path) -> None:
    assert targets_of(["ggml-cuda"], write_elf(tmp_path / "dynamic", 1, 3)) == ("ggml-cuda",)
    assert targets_of(["ggml-cuda"], write_elf(tmp_path / "llama-bench", 1)) == ("ggml-cuda", "llama-bench.hosts")


def test_a_program_for_another_system_has_none(tmp_path: Path) -> None:
    spec = write_inputs(tmp_path, {"windows-x86_64": b"win"})
    only_windows = tmp_path / "in.exe"
    only_windows.write_bytes(spec.launchers["windows-x86_64"].read_bytes())
    with pytest.raises(EngineError) as caught:
        targets_of(["ggml-cuda"], only_windows)
    assert caught.value.reason == "no-modules"


def test_folders_are_called_like_what_is_in_them(tmp_path: Path) -> None:
    module = make_module(tmp_path / "abc-ggml-test", "ggml-test")
    hosts = tmp_path / "def-mmojo-server-hosts"
    hosts.mkdir()

    def realise(targets: Sequence[str]) -> Sequence[Path]:
        assert targets == ("mmojo-server.hosts",)
        return [hosts]

    found = find_modules([str(module.path)], ("mmojo-server.hosts",), realise)
    assert found == (NamedFile("ggml-test", module.path), NamedFile("host", hosts))
    plainly = tmp_path / "hosts"
    plainly.mkdir()
    assert find_modules([str(plainly)], (), lambda _: ()) == (NamedFile("host", plainly),)


def bill(name: str, *parts: str, tools: Sequence[str] = ()) -> Bill:
    """The bill of something that is made of these parts with these tools."""
    items = tuple(BomItem(part, part) for part in parts)
    depends = {name: tuple(sorted(parts)), **dict.fromkeys(parts, ())}
    return Bill(
        BomItem(name, name), items, tuple(BomItem(tool, tool) for tool in tools), depends, {}, (), (f"{name}?",)
    )


def test_the_bill_of_a_package_lists_what_its_modules_are_made_of() -> None:
    joined = bill("server", "ggml", "openssl", tools=["zig", "cudart"]).joined(
        [bill("module", "ggml", "cudart", tools=["nvcc", "zig"])]
    )
    assert [item.name for item in joined.contained] == ["cudart", "ggml", "module", "openssl"]
    assert [item.name for item in joined.built_with] == ["nvcc", "zig"]
    assert joined.depends["server"] == ("ggml", "module", "openssl")
    assert joined.depends["module"] == ("cudart", "ggml")
    assert joined.undeclared == ("module?", "server?")
