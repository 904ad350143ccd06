"""Results for machines without a network: targets into a bundle, a bundle into the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.plan import Plan, input_trees
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.sbom.redistribution import check_redistributable_graph, restricted
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.derivation import Derivation, Node, action_key
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.store.bundle.records import BundleContents, BundledTarget
from mmojo_forge.store.bundle.writer import OnProgress, write_bundle
from mmojo_forge.store.protocol import Store

__all__ = ["BundleContents", "Exported", "export_request"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What a bundle has, and the names of what was skipped as not redistributable."""

    contents: BundleContents
    skipped: tuple[str, ...]


def export_request(
    workspace: Workspace,
    request: Request,
    store: Store,
    path: Path,
    *,
    closure: bool,
    not_redistributable: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write the request's targets to a bundle; raises EngineError (`not-built`, `not-redistributable`), ContentsError,
    RecipeError, StoreError.

    The traces of all that the targets were built from go along, as far as they are known: by them the other store
    finds what a target is without having any of it. With `closure` the content of all that goes along too, but for
    what is not redistributable, unless `not_redistributable`.
    """
    evaluation = evaluate(workspace, request)
    plan = evaluation.plan(store)
    built = evaluation.built(plan, "export")
    withheld = {} if not_redistributable else restricted(plan.graph)
    targets = []
    for target, instance in evaluation.instances.items():
        check_redistributable_graph("export", [instance.node], withheld)
        name = object_name(instance.node.name, instance.output)
        targets.append(BundledTarget(target, name, built[target], str(instance.node.label)))
    below = plan.graph.nodes.values() if closure else ()
    kept = [node for node in below if node.id in withheld]
    # By their trees: another node may have come out as a tree that is restricted.
    trees = {one.tree for one in targets} | (_trees(plan, below) - _trees(plan, kept))
    skipped = sorted(node.name for node in kept)
    written = write_bundle(store, path, targets, trees, _traces(plan, store), on_progress)
    return Exported(written, tuple(skipped))


def _trees(plan: Plan, nodes: Iterable[Node]) -> set[TreeId]:
    """The trees of the nodes, as far as they are here."""
    trees: set[TreeId] = set()
    for node in nodes:
        if isinstance(node, Derivation):
            trees.update(plan.resolved.get(node.id, {}).values())
        else:
            trees.add(node.tree)
    return trees & plan.valid


def _traces(plan: Plan, store: Store) -> Iterator[Trace]:
    keys = []
    for node in plan.graph.derivations():
        trees = input_trees(node, plan.resolved)
        if trees is not None:
            keys.append(action_key(node.preimage(trees)))
    return (store.signed(trace) for trace in store.lookup(keys).values())
