"""Maintaining the workspace's store: what it must keep for reasons of ours, and whose trees are whose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.services import Directories
from mmojo_forge.engine.workspace import Request, Workspace, as_package, graph_of
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.recipe.loader import Loader
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
    instances = Request.parse(targets).instantiate(workspace.evaluator(workspace.read_lock()))
    plan = make_plan(graph_of(instances), store)
    found = {}
    for target, instance in instances.items():
        tree = plan.resolved.get(instance.node.id, {}).get(instance.output)
        if tree is None or tree not in plan.valid:
            raise EngineError(
                f"find {target}: it is not built",
                detail=f"Build it with `forge realize {target}`.",
                reason="not-built",
            )
        found[target] = tree
    return found


def all_instances(workspace: Workspace) -> dict[str, Instance]:
    """Every target of the workspace that can be instantiated here."""
    evaluator = workspace.evaluator(workspace.read_lock())
    found = {}
    for target in Loader(workspace.root).targets():
        try:
            found[target] = evaluator.instantiate(as_package(target))
        except ForgeError:
            # A target for another machine, or a recipe that is being written: it says nothing about this store.
            continue
    return found
