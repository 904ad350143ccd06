"""Maintaining the workspace's store: what it must keep for reasons of ours, and whose trees are whose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.services import Directories
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store.protocol import Store


def pinned_by_failed_builds(directories: Directories) -> Iterator[TreeId]:
    """The inputs of failed builds that are kept: `forge shell` needs them."""
    for request in directories.failed.glob(f"*/{failed_builds.REQUEST}"):
        try:
            mounts = json.loads(request.read_text(encoding="utf-8"))["mounts"]
        except (OSError, ValueError, KeyError):
            continue
        for source, _ in mounts:
            tree = Path(source).name.partition("-")[0]
            if is_hex_digest(tree):
                yield TreeId(tree)


def trees_of(workspace: Workspace, targets: Iterable[str], store: Store) -> dict[str, TreeId]:
    """The tree of each target; raises EngineError (`not-built`), RecipeError."""
    evaluation = evaluate(workspace, Request.parse(targets))
    return evaluation.built(evaluation.plan(store), "find")
