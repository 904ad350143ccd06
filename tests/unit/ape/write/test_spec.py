"""Orders: what is refused, and what the CPU features become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.ape.__main__ import main
from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.format import slice_table
from mmojo_forge.ape.write.spec import Asset, LinkSpec, expand_asset, parse_spec, read_spec
from tests.support.ape_samples import write_inputs

GOOD: dict[str, Any] = {
    "program": "hello",
    "slices": [{"system": "linux-x86_64", "level": "v3", "features": ["avx2"], "path": "a"}],
    "launchers": {"linux-x86_64": "l"},
    "assets": [{"name": "x", "path": "x", "mapped": True}],
}
SLICE: dict[str, Any] = GOOD["slices"][0]


def test_an_order_is_parsed_with_paths_beside_it(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(json.dumps(GOOD))
    spec = read_spec(tmp_path / "order.json")
    assert spec.slices[0].name == "linux-x86_64-v3"
    assert spec.slices[0].path == tmp_path / "a"
    assert spec.launchers == {"linux-x86_64": tmp_path / "l"}
    assert spec.assets == (Asset("x", tmp_path / "x", mapped=True),)


@pytest.mark.parametrize(
    "change",
    [
        {"program": "no/slash"},
        {"program": "quote's"},
        {"program": "p" * 60},
        {"slices": []},
        {"slices": [SLICE, SLICE]},
        {"slices": [{**SLICE, "level": str(number)} for number in range(33)]},
        {"slices": [{**SLICE, "system": "plan9-x86_64"}]},
        {"slices": [{**SLICE, "level": "with space"}]},
        {"slices": [{**SLICE, "typo": 1}]},
        {"slices": [{**SLICE, "features": [1]}]},
        {"slices": [{"system": "windows-x86_64", "path": "a"}]},
        {"slices": {}},
        {"launchers": {"macos-aarch64": "l"}},
        {"assets": [{"name": "../up", "path": "x"}]},
        {"assets": [{"name": "/root", "path": "x"}]},
        {"assets": [{"name": "slices/mine", "path": "x"}]},
        {"assets": [{"name": "x", "path": "x"}] * 2},
        {"assets": [{"name": "x", "path": "x", "mapped": "yes"}]},
        {"unknown": 1},
    ],
)
def test_a_wrong_order_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ApeError) as caught:
        parse_spec({**GOOD, **change}, Path())
    assert caught.value.reason == "ape-spec"


def test_an_order_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(ApeError) as caught:
        read_spec(tmp_path / "missing")
    assert caught.value.reason == "ape-input"
    (tmp_path / "bad").write_text("{")
    with pytest.raises(ApeError) as caught:
        read_spec(tmp_path / "bad")
    assert caught.value.reason == "ape-spec"


def test_a_folder_becomes_assets_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/two", "b/one", "a", "b.txt"):
        (tmp_path / "web" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "web" / name).touch()
    assets = expand_asset("web", tmp_path / "web")
    assert [asset.name for asset in assets] == ["web/a", "web/b.txt", "web/b/one", "web/b/two"]


def test_features_become_the_bits_that_cpuid_shows() -> None:
    words = slice_table.encode_features("windows-x86_64", ["avx2", "avx512f", "abm"])
    assert words[2] == 1 << 5 | 1 << 16
    assert words[6] == 1 << 5
    assert words[8] == 0xE6  # the OS must save the AVX-512 registers
    arm = slice_table.encode_features("linux-aarch64", ["asimddp", "i8mm"])
    assert (arm[0], arm[2], arm[8]) == (1 << 20, 1 << 13, 0)


@pytest.mark.parametrize(
    "system, name", [("linux-x86_64", "i8mm"), ("linux-aarch64", "avx2"), ("macos-aarch64", "i8mm")]
)
def test_features_that_cannot_be_asked_for_are_refused(system: str, name: str) -> None:
    with pytest.raises(ApeError) as caught:
        slice_table.encode_features(system, [name])
    assert caught.value.reason == "ape-feature"


def test_the_command_links_inspects_and_takes_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_inputs(tmp_path, {"linux-x86_64": b"x"})
    order = tmp_path / "order.json"
    launchers = {system: str(path) for system, path in spec.launchers.items()}
    slices = [{"system": "linux-x86_64", "path": "linux-x86_64"}]
    order.write_text(json.dumps({"program": "hello", "slices": slices, "launchers": launchers}))
    out = str(tmp_path / "out")
    assert main(["link", str(order), out]) == 0
    assert main(["append", out, "order.json", str(order), "--mapped"]) == 0
    assert main(["inspect", out, "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"][-1]["name"] == "order.json"
    assert main(["extract", out, "order.json", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again").read_bytes() == order.read_bytes()
    assert main(["assimilate", out, "linux-x86_64"]) == 0
    assert main(["inspect", str(order)]) == 2
    assert "ape-not-an-ape" in capsys.readouterr().err


def test_a_program_without_slices_cannot_be_made() -> None:
    with pytest.raises(ApeError) as caught:
        LinkSpec("p", ())
    assert caught.value.reason == "ape-spec"
