"""`forge store repair`: restores the trees that the store cannot repair from its own data.

The store has set aside damaged blobs and marked every tree with one as invalid. So this is ordinary realising: nodes of
the workspace whose trees were lost are fetched, imported, substituted or built. A tree is restored only if the result
has the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mmojo_forge.engine.errors import BuildsFailed
from mmojo_forge.engine.evaluation import evaluate_all
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Plan, make_plan
from mmojo_forge.engine.realise.run import realise
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.derivation import Derivation, Node, Source
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.store.maintain.repair import RepairResult


@dataclass(frozen=True, slots=True)
class Remade:
    """A tree that was lost, and whether it was restored.

    `targets` are the workspace's targets that have it in their closure. `failure` is empty if the tree was restored.
    Otherwise it is a failure's reason, `unknown` if no node of the workspace has this tree, or `other-bytes` if the
    rebuild gave another tree.
    """

    tree: TreeId
    name: str
    targets: tuple[str, ...]
    failure: str = ""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What the store repaired by itself (`mended`), and the outcome for each lost tree."""

    mended: RepairResult
    remade: tuple[Remade, ...]

    @property
    def whole(self) -> bool:
        """Whether all lost trees were restored."""
        return not any(tree.failure for tree in self.remade)


def make_anew(workspace: Workspace, mended: RepairResult, services: Services, settings: Settings) -> RepairReport:
    """Make the lost trees again if a node of the workspace has them, and restore their checkouts."""
    if not mended.lost:
        return RepairReport(mended, ())
    evaluation = evaluate_all(workspace, tolerant=True)
    plan = evaluation.plan(services.store)
    lost = {entry.tree for entry in mended.lost}
    makers = _makers(plan, lost)
    known = {tree for node in makers for tree in _trees_of(node, plan)}
    pinned = [source for source in _pinned(workspace.read_lock()) if source.tree in lost - known]
    outputs = [(node, output) for node in makers for output in _lost_outputs(node, plan, lost)]
    failures = _realise([*outputs, *((source, source.outputs[0]) for source in pinned)], services, settings)
    users = _users(plan, evaluation.instances, makers)
    valid = services.store.valid_trees(lost)
    remade = []
    for entry in mended.lost:
        if entry.tree in valid:
            for name in entry.objects:
                services.store.checkout(entry.tree, name)
        nodes = [node for node in (*makers, *pinned) if entry.tree in _trees_of(node, plan)]
        targets = sorted({target for node in nodes for target in users.get(node.id, ())})
        failure = "" if entry.tree in valid else _why(nodes, failures)
        remade.append(Remade(entry.tree, entry.name, tuple(targets), failure))
    return RepairReport(mended, tuple(remade))


def _makers(plan: Plan, lost: set[TreeId]) -> list[Node]:
    return [node for node in plan.graph.nodes.values() if not lost.isdisjoint(_trees_of(node, plan))]


def _trees_of(node: Node, plan: Plan) -> set[TreeId]:
    return set(plan.resolved.get(node.id, {}).values()) if isinstance(node, Derivation) else {node.tree}


def _pinned(lock: Lock) -> Iterator[Source]:
    """Every pinned source, also those that only targets for other machines need."""
    for pin in lock.pins():
        # The lock does not record the exec bit, which is part of the tree id, so try both.
        for executable in (False, True) if pin.measured else ():
            yield Source(pin.name, pin.locator, pin.blake3, pin.size, pin.sha256, executable, pin.mirrors)


def _lost_outputs(node: Node, plan: Plan, lost: set[TreeId]) -> Sequence[str]:
    if not isinstance(node, Derivation):
        return node.outputs
    return [output for output, tree in plan.resolved[node.id].items() if tree in lost]


def _realise(outputs: Iterable[tuple[Node, str]], services: Services, settings: Settings) -> Mapping[str, str]:
    """Make the outputs valid; returns the reasons of failures by node name. Untried nodes have `input-failed`."""
    plan = make_plan(Graph.of_outputs(outputs), services.store, services.substituter())
    if not plan.steps:
        return {}
    try:
        realise(plan, services, replace(settings, keep_going=True))
    except BuildsFailed as error:
        return {
            **dict.fromkeys(error.blocked, "input-failed"),
            **{failure.name: failure.reason for failure in error.failures},
        }
    return {}


def _users(plan: Plan, instances: Mapping[str, Instance], nodes: Iterable[Node]) -> dict[str, set[str]]:
    """The targets that have each of the nodes in their closure, by the node's id."""
    # networkx is slow to import, and only a repair that lost something needs it.
    import networkx

    graph = plan.graph.to_networkx()
    above = {node.id: {node.id, *networkx.ancestors(graph, node.id)} for node in nodes if node.id in graph}
    return {
        identifier: {target for target, instance in instances.items() if instance.node.id in found}
        for identifier, found in above.items()
    }


def _why(nodes: list[Node], failures: Mapping[str, str]) -> str:
    if not nodes:
        return "unknown"
    return next((failures[node.name] for node in nodes if node.name in failures), "other-bytes")
