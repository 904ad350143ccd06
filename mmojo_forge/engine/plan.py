"""Planning: what would be fetched and built, from metadata alone. Pure, printable, without effects.

1. Derivations that were realised before are resolved in one question (`lookup_resolved`).
2. In waves, the others whose inputs are all resolved get their action keys looked up in the build trace.
3. From the roots downwards, only what is needed is wanted: a node whose trees are valid needs nothing below it.
4. If that leaves anything to do and there are other stores: the same again, where keys that the build trace does not
   have are looked up there, and a node whose trees are on offer is fetched and needs nothing below it.
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
    """What has to be done about a node."""

    FETCH = "fetch"
    IMPORT = "import"
    SUBSTITUTE = "substitute"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class Step:
    """One node that is not valid yet. `certain` is false where an input that is built first may turn out to be
    what it was before, and then nothing is done. `size` is bytes to fetch (of content, where that travels compressed),
    `seconds` an estimate from history, `claim` what another builder signed for a node that is substituted."""

    node: Node
    action: Action
    certain: bool = True
    size: int = 0
    seconds: float | None = None
    claim: Trace | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in an order that works, what is resolved already, and how many nodes need nothing.

    `claims` are the traces of other builders that resolved something; `offered` are the trees that other stores have.
    """

    graph: Graph
    resolved: Mapping[DerivationId, Resolution]
    valid: frozenset[TreeId]
    steps: tuple[Step, ...]
    claims: Mapping[DerivationId, Trace] = field(default_factory=dict)
    offered: frozenset[TreeId] = frozenset()

    @property
    def fetch_bytes(self) -> int:
        """Bytes to download from where they are published."""
        return self.bytes_of(Action.FETCH)

    def bytes_of(self, action: Action) -> int:
        """Bytes that the steps of a kind need."""
        return sum(step.size for step in self.steps if step.action is action)

    def count(self, action: Action) -> int:
        """How many steps there are of a kind."""
        return sum(step.action is action for step in self.steps)

    @property
    def known(self) -> int:
        """Nodes of the closure about which nothing has to be done."""
        return len(self.graph.nodes) - len(self.steps)


def make_plan(graph: Graph, store: Metadata, substituter: Substituter | None = None) -> Plan:
    """The plan that makes the roots of `graph` valid in `store`."""
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
        # First by what is known without asking: what lies below a result that is there need not be asked for.
        offered = frozenset(substituter.offers(_outputs(graph.nodes, graph, resolved) - valid, ask=False))
        made = (one for one, substituted in _wanted(graph, resolved, valid, offered).items() if not substituted)
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
    """The step that fetches what is needed and absent of a node's outputs from another store."""
    sizes = {output.tree: output.size for output in claim.outputs.values()} if claim else {}
    needed = set(graph.needed(node, resolution_of(claim)).values()) if claim else set[TreeId]()
    return Step(node, Action.SUBSTITUTE, size=sum(sizes[tree] for tree in needed - valid), claim=claim)


def input_trees(node: Derivation, resolved: Mapping[DerivationId, Resolution]) -> dict[str, TreeId] | None:
    """The tree of each input by input name, or None while one of them is not known."""
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
    """What every derivation is resolved to as far as anybody knows; `claims` gets what only others know."""
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
    """The trees that are needed of those of the nodes that are derivations, as far as they are resolved."""
    made = (node for one in nodes if isinstance(node := graph.nodes[one], Derivation) and node.id in resolved)
    return {tree for node in made for tree in graph.needed(node, resolved[node.id]).values()}


def is_valid(node: Node, graph: Graph, resolved: Mapping[DerivationId, Resolution], valid: Set[TreeId]) -> bool:
    """Whether every output of the node that is needed is known and present."""
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
    """The nodes about which something has to be done, and whether they are substituted."""
    wanted: dict[str, bool] = {}
    made: set[str] = set()
    roots = frozenset(graph.roots)
    # Backwards, whatever uses a node comes before it.
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
    """The step that makes a node here, be it fetched, imported or built."""
    if isinstance(node, Source):
        return Step(node, Action.FETCH, size=node.size)
    if isinstance(node, LocalSource):
        return Step(node, Action.IMPORT)
    if node.download:
        return Step(node, Action.FETCH, size=node.download.size)
    return Step(node, Action.BUILD, certain=input_trees(node, resolved) is not None, seconds=seconds)
