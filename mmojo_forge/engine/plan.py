"""Computes what has to be fetched, substituted and built, from metadata alone. Planning has no effects.

1. One query (`lookup_resolved`) resolves every derivation that was realised before.
2. The rest is resolved in waves. Each wave takes the derivations whose inputs are all resolved, computes their action
   keys and looks them up in the build trace.
3. Demand flows from the roots down. A node whose trees are valid needs nothing below it.
4. If steps remain and there are other stores, planning repeats with them. They look up the keys that the build trace
   lacks. A node whose trees they offer is substituted, and needs nothing below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.protocols import Metadata, Substituter
from mmojo_forge.model.derivation import Derivation, LocalSource, Node, Source, action_key
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace

Resolution = Mapping[str, TreeId]
"""The tree of each output of one derivation."""


class Action(StrEnum):
    """What a step does to make its node valid."""

    FETCH = "fetch"
    IMPORT = "import"
    SUBSTITUTE = "substitute"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class Step:
    """One node that is not valid yet, and how to make it valid.

    `certain` is false if early cutoff may make the step unnecessary: an input may be rebuilt to the same bytes.
    `size` is the number of bytes to fetch, before compression. `seconds` is an estimate from past builds. `claim` is
    the signed trace of another builder, for a node that is substituted.
    """

    node: Node
    action: Action
    certain: bool = True
    size: int = 0
    seconds: float | None = None
    claim: Trace | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in topological order, with what planning found out.

    `resolved` has the output trees of derivations, as far as they are known. `valid` are the known trees that the store
    has. `claims` are the traces of other builders that resolved a derivation; `offered` are trees that other stores
    claim to have.
    """

    graph: Graph
    resolved: Mapping[DerivationId, Resolution]
    valid: frozenset[TreeId]
    steps: tuple[Step, ...]
    claims: Mapping[DerivationId, Trace] = field(default_factory=dict)
    offered: frozenset[TreeId] = frozenset()

    @property
    def fetch_bytes(self) -> int:
        """Bytes of sources to download."""
        return self.bytes_of(Action.FETCH)

    def bytes_of(self, action: Action) -> int:
        """Bytes that the steps with this action transfer."""
        return sum(step.size for step in self.steps if step.action is action)

    def count(self, action: Action) -> int:
        """The number of steps with this action."""
        return sum(step.action is action for step in self.steps)

    @property
    def known(self) -> int:
        """The number of nodes in the closure that need no step."""
        return len(self.graph.nodes) - len(self.steps)


def make_plan(graph: Graph, store: Metadata, substituter: Substituter | None = None) -> Plan:
    """The plan to make the roots of `graph` valid in `store`."""
    here = _make_plan(graph, store, None)
    if substituter is None or not any(step.action is not Action.IMPORT for step in here.steps):
        return here
    roots = (graph.nodes[root] for root in graph.roots)
    substituter.expect([node.id for node in roots if isinstance(node, Derivation)])
    return _make_plan(graph, store, substituter)


def _make_plan(graph: Graph, store: Metadata, substituter: Substituter | None) -> Plan:
    claims: dict[DerivationId, Trace] = {}
    resolved = _resolve(graph, store, substituter, claims)
    valid = frozenset(store.valid_trees(_known_trees(graph, resolved)))
    offered: frozenset[TreeId] = frozenset()
    if substituter:
        # First without requests: an index already lists most trees, and nothing below an offered tree is needed. Only
        # the trees that are still to be made are worth a request.
        offered = frozenset(substituter.offers(_outputs(graph.nodes, graph, resolved) - valid, ask=False))
        wanted = _wanted(graph, resolved, valid, offered)
        made = [identifier for identifier, substituted in wanted.items() if not substituted]
        offered |= substituter.offers(_outputs(made, graph, resolved) - valid - offered, ask=True)
    wanted = _wanted(graph, resolved, valid, offered)
    history = store.history({node.name for node in graph.derivations()} if wanted else ())
    steps = []
    for identifier, node in graph.nodes.items():
        if identifier in wanted and wanted[identifier] and isinstance(node, Derivation):
            steps.append(substitution(node, graph, claims.get(node.id), valid))
        elif identifier in wanted:
            observed = history.get(node.name)
            steps.append(step_of(node, resolved, observed.seconds if observed else None))
    return Plan(graph, resolved, valid, tuple(steps), claims, offered)


def substitution(node: Derivation, graph: Graph, claim: Trace | None, valid: Set[TreeId]) -> Step:
    """The step that fetches the needed outputs of `node` that are absent here from another store."""
    sizes = {output.tree: output.size for output in claim.outputs.values()} if claim else {}
    needed = set(graph.needed(node, resolution_of(claim)).values()) if claim else set[TreeId]()
    return Step(node, Action.SUBSTITUTE, size=sum(sizes[tree] for tree in needed - valid), claim=claim)


def input_trees(node: Derivation, resolved: Mapping[DerivationId, Resolution]) -> dict[str, TreeId] | None:
    """The tree of each input, by input name; None if one of them is not resolved yet."""
    trees: dict[str, TreeId] = {}
    for name, edge in node.inputs.items():
        if isinstance(edge.node, Derivation):
            outputs = resolved.get(edge.node.id)
            if outputs is None:
                return None
            trees[name] = outputs[edge.output]
        else:
            trees[name] = edge.node.tree
    return trees


def _resolve(
    graph: Graph, store: Metadata, substituter: Substituter | None, claims: dict[DerivationId, Trace]
) -> dict[DerivationId, Resolution]:
    """The resolution of every derivation that this store or another builder knows.

    Adds to `claims` the traces that only other stores have.
    """
    derivations = list(graph.derivations())
    known = store.lookup_resolved([node.id for node in derivations])
    resolved: dict[DerivationId, Resolution] = {
        node.id: trees for node in derivations if (trees := known.get(node.id)) and trees.keys() >= set(node.outputs)
    }
    waiting = {node.id: _unresolved_inputs(node, resolved) for node in derivations if node.id not in resolved}
    wave = [node for node in derivations if waiting.get(node.id) == 0]
    while wave:
        keys = dict(_keys(wave, resolved))
        here = store.lookup(list(keys))
        rest = [key for key in keys if key not in here]
        elsewhere = substituter.lookup(rest) if substituter and rest else {}
        claims.update({keys[key]: trace for key, trace in elsewhere.items()})
        found = {keys[key]: resolution_of(trace) for key, trace in (*here.items(), *elsewhere.items())}
        resolved.update(found)
        wave = list(_next_wave(graph, found, waiting))
    return resolved


def _unresolved_inputs(node: Derivation, resolved: Mapping[DerivationId, Resolution]) -> int:
    unresolved = {
        edge.node.id
        for edge in node.inputs.values()
        if isinstance(edge.node, Derivation) and edge.node.id not in resolved
    }
    return len(unresolved)


def _keys(
    wave: Iterable[Derivation], resolved: Mapping[DerivationId, Resolution]
) -> Iterator[tuple[ActionKey, DerivationId]]:
    for node in wave:
        trees = input_trees(node, resolved)
        if trees is not None:
            yield action_key(node.preimage(trees)), node.id


def resolution_of(trace: Trace) -> Resolution:
    """The tree of each output that a trace names."""
    return {name: output.tree for name, output in trace.outputs.items()}


def _next_wave(
    graph: Graph, found: Mapping[DerivationId, Resolution], waiting: dict[DerivationId, int]
) -> Iterator[Derivation]:
    for identifier in found:
        for user in graph.users[identifier]:
            node = graph.nodes[user]
            if isinstance(node, Derivation) and waiting.get(node.id):
                waiting[node.id] -= 1
                if waiting[node.id] == 0:
                    yield node


def _known_trees(graph: Graph, resolved: Mapping[DerivationId, Resolution]) -> Iterator[TreeId]:
    for node in graph.nodes.values():
        if isinstance(node, Derivation):
            yield from resolved.get(node.id, {}).values()
        else:
            yield node.tree


def _outputs(nodes: Iterable[str], graph: Graph, resolved: Mapping[DerivationId, Resolution]) -> set[TreeId]:
    """The needed output trees of those `nodes` that are resolved derivations."""
    found = (graph.nodes[identifier] for identifier in nodes)
    derivations = (node for node in found if isinstance(node, Derivation) and node.id in resolved)
    return {tree for node in derivations for tree in graph.needed(node, resolved[node.id]).values()}


def is_valid(node: Node, graph: Graph, resolved: Mapping[DerivationId, Resolution], valid: Set[TreeId]) -> bool:
    """Whether every needed output of the node is known and present."""
    if isinstance(node, Derivation):
        outputs = resolved.get(node.id)
        return outputs is not None and all(tree in valid for tree in graph.needed(node, outputs).values())
    return node.tree in valid


def _wanted(
    graph: Graph,
    resolved: Mapping[DerivationId, Resolution],
    valid: frozenset[TreeId],
    offered: frozenset[TreeId],
) -> dict[str, bool]:
    """The ids of the nodes that need a step, each with whether that step is a substitution."""
    wanted: dict[str, bool] = {}
    made: set[str] = set()
    roots = frozenset(graph.roots)
    # In reverse topological order, the users of a node come before it, so their fate is known.
    for identifier in reversed(tuple(graph.nodes)):
        node = graph.nodes[identifier]
        needed = identifier in roots or not made.isdisjoint(graph.users[identifier])
        if not needed or is_valid(node, graph, resolved, valid):
            continue
        wanted[identifier] = isinstance(node, Derivation) and is_valid(node, graph, resolved, valid | offered)
        if not wanted[identifier]:
            made.add(identifier)
    return wanted


def step_of(node: Node, resolved: Mapping[DerivationId, Resolution], seconds: float | None) -> Step:
    """The step that makes a node valid without other stores: it fetches, imports or builds."""
    if isinstance(node, Source):
        return Step(node, Action.FETCH, size=node.size)
    if isinstance(node, LocalSource):
        return Step(node, Action.IMPORT)
    if node.download:
        return Step(node, Action.FETCH, size=node.download.size)
    return Step(node, Action.BUILD, certain=input_trees(node, resolved) is not None, seconds=seconds)
