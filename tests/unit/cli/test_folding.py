"""What is said of hundreds of sources: the first ones, and how many more there are."""

from __future__ import annotations

import pytest

from mmojo_forge.cli import console
from mmojo_forge.cli.target import realize, show
from mmojo_forge.engine.plan import Action, Step
from mmojo_forge.model.derivation import Derivation, Input, Source
from mmojo_forge.model.digest import BlobDigest, Sha256, blake3_hex


def source(number: int) -> Source:
    digest = blake3_hex(str(number).encode())
    return Source(f"package-{number}.tgz", f"npm:package@1.0.{number}", BlobDigest(digest), 1000, Sha256(digest))


def node(count: int) -> Derivation:
    inputs = {f"package-{number}": Input(source(number), "out", f"/forge/package-{number}") for number in range(count)}
    tool = Derivation("tool", "/bin/sh", (), {}, {})
    return Derivation("modules", "builtin:node-modules", (), {}, {**inputs, "tool": Input(tool, "out", "/forge/tool")})


@pytest.mark.parametrize(("count", "lines"), [(0, 1), (200, 201), (201, 12), (900, 12)])
def test_show_folds_hundreds_of_sources_but_no_other_input(count: int, lines: int) -> None:
    shown = list(show.inputs(node(count)))
    assert len(shown) == lines
    assert "tool at /forge/tool: tool" in shown
    if count > 200:
        assert shown[-1] == f"and {count - 10} more pinned sources (--json lists all)"


@pytest.mark.parametrize(("count", "rows"), [(0, 1), (200, 201), (201, 12), (900, 12)])
def test_plan_folds_hundreds_of_downloads_and_says_how_large_they_are(count: int, rows: int) -> None:
    steps = [Step(source(number), Action.FETCH, size=1000) for number in range(count)]
    shown = list(realize.rows([*steps, Step(node(0), Action.BUILD)]))
    assert len(shown) == rows
    assert shown[-1][:2] == ("build", "modules")
    if count > 200:
        assert shown[-2][:3] == ("fetch", f"{count - 10} more", console.format_size((count - 10) * 1000))
