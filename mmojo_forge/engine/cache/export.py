"""`forge store export`: writes targets to a bundle, for machines without a network."""

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
    """The contents of a bundle, and the names of the nodes that were skipped as not redistributable."""

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
    """Write the request's targets to a bundle at `path`.

    The bundle includes the known traces of the whole closure. With them, the other store resolves a target without its
    inputs. With `closure`, the bundle also has the content of the closure. Nodes that are not redistributable are
    skipped unless `not_redistributable`.

    Raises EngineError (`not-built`, `not-redistributable`), ContentsError, RecipeError, StoreError.
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
    # Compares trees, not nodes, because another node may have produced a restricted tree.
    trees = {bundled.tree for bundled in targets} | (_trees(plan, below) - _trees(plan, kept))
    skipped = sorted(node.name for node in kept)
    written = write_bundle(store, path, targets, trees, _traces(plan, store), on_progress)
    return Exported(written, tuple(skipped))


def _trees(plan: Plan, nodes: Iterable[Node]) -> set[TreeId]:
    """The trees of the nodes that the store has."""
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
