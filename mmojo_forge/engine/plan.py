"""Planning: what would be fetched and built, from metadata alone. Pure, printable, without effects.

1. Derivations that were realised before are resolved in one question (`lookup_resolved`).
2. In waves, the others whose inputs are all resolved get their action keys looked up in the build trace.
3. From the roots downwards, only what is needed is wanted: a node whose trees are valid needs nothing below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.ports import Metadata
from mmojo_forge.model.derivation import Derivation, LocalSource, Node, Source, action_key
from mmojo_forge.model.digest import DerivationId, TreeId

Resolution = Mapping[str, TreeId]
"""The tree of each output of one derivation."""


class Action(StrEnum):
    """What has to be done about a node."""

    FETCH = "fetch"
    IMPORT = "import"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class Step:
    """One node that is not valid yet. `certain` is false where an input that is built first may turn out to be
    what it was before, and then nothing is done. `size` is bytes to fetch, `seconds` an estimate from history."""

    node: Node
    action: Action
    certain: bool = True
    size: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in an order that works, what is resolved already, and how many nodes need nothing."""

    graph: Graph
    resolved: Mapping[DerivationId, Resolution]
    valid: frozenset[TreeId]
    steps: tuple[Step, ...]

    @property
    def fetch_bytes(self) -> int:
        """Bytes to download."""
        return sum(step.size for step in self.steps if step.action is Action.FETCH)

    def count(self, action: Action) -> int:
        """How many steps there are of a kind."""
        return sum(step.action is action for step in self.steps)

    @property
    def known(self) -> int:
        """Nodes of the closure about which nothing has to be done."""
        return len(self.graph.nodes) - len(self.steps)


def make_plan(graph: Graph, store: Metadata) -> Plan:
    """The plan that makes the roots of `graph` valid in `store`."""
    resolved = _resolve(graph, store)
    valid = frozenset(store.valid_trees(_known_trees(graph, resolved)))
    wanted = _wanted(graph, resolved, valid)
    history = store.history({node.name for node in graph.derivations()} if wanted else ())
    steps = []
    for identifier, node in graph.nodes.items():
        if identifier not in wanted:
            continue
        observed = history.get(node.name)
        steps.append(_step(node, resolved, observed.seconds if observed else None))
    return Plan(graph, resolved, valid, tuple(steps))


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


def _resolve(graph: Graph, store: Metadata) -> dict[DerivationId, Resolution]:
    derivations = list(graph.derivations())
    resolved: dict[DerivationId, Resolution] = dict(store.lookup_resolved([node.id for node in derivations]))
    waiting = {node.id: _unresolved_inputs(node, resolved) for node in derivations if node.id not in resolved}
    wave = [node for node in derivations if waiting.get(node.id) == 0]
    while wave:
        found = _look_up(wave, resolved, store)
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


def _look_up(
    wave: list[Derivation], resolved: Mapping[DerivationId, Resolution], store: Metadata
) -> dict[DerivationId, Resolution]:
    keys = {}
    for node in wave:
        trees = input_trees(node, resolved)
        if trees is not None:
            keys[action_key(node.preimage(trees))] = node.id
    traces = store.lookup(list(keys))
    return {keys[key]: {name: output.tree for name, output in trace.outputs.items()} for key, trace in traces.items()}


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


def is_valid(node: Node, resolved: Mapping[DerivationId, Resolution], valid: frozenset[TreeId] | set[TreeId]) -> bool:
    """Whether every output of the node is known and present."""
    if isinstance(node, Derivation):
        outputs = resolved.get(node.id)
        return outputs is not None and all(tree in valid for tree in outputs.values())
    return node.tree in valid


def _wanted(graph: Graph, resolved: Mapping[DerivationId, Resolution], valid: frozenset[TreeId]) -> set[str]:
    wanted: set[str] = set()
    roots = frozenset(graph.roots)
    # Backwards, whatever uses a node comes before it.
    for identifier in reversed(tuple(graph.nodes)):
        needed = identifier in roots or not wanted.isdisjoint(graph.users[identifier])
        if needed and not is_valid(graph.nodes[identifier], resolved, valid):
            wanted.add(identifier)
    return wanted


def _step(node: Node, resolved: Mapping[DerivationId, Resolution], seconds: float | None) -> Step:
    if isinstance(node, Source):
        return Step(node, Action.FETCH, size=node.size)
    if isinstance(node, LocalSource):
        return Step(node, Action.IMPORT)
    return Step(node, Action.BUILD, certain=input_trees(node, resolved) is not None, seconds=seconds)
