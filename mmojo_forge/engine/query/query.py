"""Read-only questions about targets: which exist, what they are, where their results are, what their builds logged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.evaluation import evaluate, evaluate_all
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import input_trees, make_plan
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.services import Directories
from mmojo_forge.engine.workspace import Request, Workspace, target_name
from mmojo_forge.model.derivation import Derivation, Label, action_key
from mmojo_forge.model.digest import ActionKey, TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.recipe.api import OptionValue
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.recipe.local_files import read_local_tree
from mmojo_forge.store.protocol import Store


@dataclass(frozen=True, slots=True)
class TargetSummary:
    """One target in a list. `error` is the reason if it cannot be instantiated here."""

    target: str
    summary: str
    label: str
    valid: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """One target in detail. `key` is None, and `outputs` is empty, if they are not known yet."""

    instance: Instance
    summary: str
    options: Mapping[str, OptionValue]
    key: ActionKey | None
    outputs: Mapping[str, TreeId]


def list_targets(workspace: Workspace, store: Store) -> list[TargetSummary]:
    """All targets of the workspace, sorted by name."""
    loader = Loader(workspace.root)
    evaluation = evaluate_all(workspace, tolerant=True)
    instances, errors = evaluation.instances, evaluation.refused
    plan = evaluation.plan(store)
    rows = []
    for target in loader.targets():
        summary = loader.find(target)[0].summary
        if target in errors:
            rows.append(TargetSummary(target, summary, errors[target], False, errors[target]))
            continue
        node = instances[target].node
        valid = plan.resolved.get(node.id, {}).get(instances[target].output) in plan.valid
        label = "reproducible" if node.label.reproducible else "host-specific"
        rows.append(TargetSummary(target, summary, label, valid))
    return rows


def describe(workspace: Workspace, request: Request, store: Store) -> Description:
    """The details of the request's one target; raises RecipeError, LockError."""
    target = request.targets[0]
    instance = evaluate(workspace, request).instances[target]
    plan = make_plan(Graph.of([instance.node]), store)
    trees = input_trees(instance.node, plan.resolved)
    recipe, preset = Loader(workspace.root).find(target_name(target))
    overrides = request.overrides.get(target_name(target), {})
    return Description(
        instance,
        recipe.summary,
        {**recipe.options, **preset, **overrides},
        action_key(instance.node.preimage(trees)) if trees is not None else None,
        plan.resolved.get(instance.node.id, {}),
    )


def target_path(workspace: Workspace, request: Request, store: Store) -> Path:
    """The store path of the request's one target; raises EngineError (`not-built`)."""
    evaluation = evaluate(workspace, request)
    [(target, instance)] = evaluation.instances.items()
    tree = evaluation.built(evaluation.plan(store), "find")[target]
    return store.checkout(tree, object_name(instance.node.name, instance.output))


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """One finished result. `size` is in bytes. `trace` and `label` are known only for targets of this workspace."""

    path: Path
    tree: TreeId
    size: int
    files: int
    label: Label | None = None
    trace: Trace | None = None


def find_result(workspace: Workspace, what: str, folder: Path, store: Store) -> ResultInfo:
    """The result that `what` names: a file or folder relative to `folder`, or a target.

    A folder counts as a path only if `what` contains a slash. Raises EngineError, RecipeError.
    """
    path = folder / what
    if path.exists() and (os.sep in what or path.is_file()):
        tree = read_local_tree(path.resolve())
        return ResultInfo(path, tree.id, tree.size, sum(1 for _ in tree.files()))
    request = Request.parse((what,))
    path = target_path(workspace, request, store)
    shown = describe(workspace, request, store)
    tree = store.read_tree(shown.outputs[shown.instance.output])
    trace = store.lookup([shown.key]).get(shown.key) if shown.key else None
    trace = store.signed(trace) if trace else None
    files = sum(1 for _ in tree.files())
    return ResultInfo(path, tree.id, tree.size, files, shown.instance.node.label, trace)


def open_log(
    workspace: Workspace, name: str, store: Store, directories: Directories
) -> AbstractContextManager[BinaryIO]:
    """The log of the last build of a target or node called `name`, even a failed one. Raises EngineError (`no-log`)."""
    kept = failed_builds.key_of(directories.failed_build(name))
    keys = [kept, *(key for _, key in _known_keys(workspace, name, store))]
    for key in keys:
        if key and store.log_path(key).exists():
            return store.open_log(key)
    raise EngineError(
        f"show log of {name}: this store has none",
        detail="Either it was never built here, or forge unpacks it itself, which leaves no log.",
        reason="no-log",
    )


def _known_keys(workspace: Workspace, name: str, store: Store) -> Iterator[tuple[Derivation, ActionKey | None]]:
    """The node of the target `name`, or else all nodes of that name below any target, each with its action key."""
    is_target = name in Loader(workspace.root).targets()
    evaluation = evaluate(workspace, Request.parse([name])) if is_target else evaluate_all(workspace)
    plan = evaluation.plan(store)
    below = (node for node in plan.graph.derivations() if node.name == name)
    nodes = [evaluation.instances[name].node] if is_target else list(below)
    for node in nodes:
        trees = input_trees(node, plan.resolved)
        yield node, action_key(node.preimage(trees)) if trees is not None else None
