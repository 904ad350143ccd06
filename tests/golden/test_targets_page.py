"""docs/targets.md is what `forge list --markdown` prints: it cannot drift from the recipes, whatever the machine."""

from __future__ import annotations

import os

import pytest

from mmojo_forge.cli.target import listing
from mmojo_forge.engine import host_facts
from mmojo_forge.engine.query.targets import survey
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.recipe.api import HostFactError
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "targets.md"


def test_the_page_of_targets_is_that_on_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_facts: host_facts.HostFacts, name: str) -> str:
        raise HostFactError(f"read {name}", reason="unknown-cpu")

    # Neither this machine's facts nor its store are asked.
    monkeypatch.setattr(host_facts.HostFacts, "__getitem__", refuse)
    workspace = Workspace.find(REPOSITORY, REPOSITORY / "no such store")
    text = listing.page(survey(workspace, workspace.read_lock()))
    if os.environ.get("FORGE_TEST_ACCEPT"):
        PAGE.write_text(text)
        pytest.skip(f"rewrote {PAGE.name}")
    assert PAGE.read_text() == text, "run FORGE_TEST_ACCEPT=1 ./check tests/golden, and read what changed"
