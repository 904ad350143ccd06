"""The derivation graph of some targets: every node once, inputs first.

The graph records which outputs of each derivation are used. Unused outputs need not be present, fetched or rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mmojo_forge.model.derivation import Derivation, Node
from mmojo_forge.model.digest import TreeId

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, slots=True)
class Graph:
    """A closure of nodes.

    `nodes` maps ids to nodes in topological order, inputs first. `users` maps an id to the nodes that use it.
    `outputs` has an entry for each derivation with several outputs: those that a root or another node needs.
    """

    roots: tuple[str, ...]
    nodes: Mapping[str, Node]
    users: Mapping[str, Sequence[str]]
    outputs: Mapping[str, Set[str]]

    @classmethod
    def of(cls, roots: Iterable[Node]) -> Graph:
        """The closure of `roots`, with all outputs of each root wanted."""
        return cls.of_outputs((root, output) for root in roots for output in root.outputs)

    @classmethod
    def of_outputs(cls, wanted: Iterable[tuple[Node, str]]) -> Graph:
        """The closure of these outputs. It has no cycles: a derivation can only name inputs that already exist."""
        pairs = list(wanted)
        nodes: dict[str, Node] = {}
        users: dict[str, list[str]] = {}
        for root, _ in pairs:
            _add(root, nodes, users)
        return cls(tuple(dict.fromkeys(root.id for root, _ in pairs)), nodes, users, _outputs(pairs, nodes.values()))

    def to_networkx(self) -> networkx.DiGraph[str]:
        """The same graph for networkx, with an edge from each node to every node that it is built from."""
        # networkx takes 100 ms to import. Planning and realising do without: `nodes` is already in topological order.
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from((user, below) for below, users in self.users.items() for user in users)
        return graph

    def derivations(self) -> Iterator[Derivation]:
        """The derivations of the graph, inputs first."""
        return (node for node in self.nodes.values() if isinstance(node, Derivation))

    def needed(self, node: Derivation, trees: Mapping[str, TreeId]) -> Mapping[str, TreeId]:
        """The entries of `trees` (output name → tree) whose outputs a root or another node needs."""
        # A derivation with a single output is not in `outputs`: its output is always needed.
        wanted = self.outputs.get(node.id)
        if wanted is None:
            return trees
        assert trees.keys() >= wanted, f"{node.name} has no {', '.join(wanted - trees.keys())}"
        return {name: tree for name, tree in trees.items() if name in wanted}


def inputs_of(node: Node) -> Iterator[Node]:
    """The nodes that `node` is directly built from."""
    return (edge.node for edge in node.inputs.values()) if isinstance(node, Derivation) else iter(())


def _outputs(wanted: Iterable[tuple[Node, str]], nodes: Iterable[Node]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    edges = (
        (edge.node, edge.output) for node in nodes if isinstance(node, Derivation) for edge in node.inputs.values()
    )
    for node, output in chain(wanted, edges):
        if len(node.outputs) > 1:
            found.setdefault(node.id, set()).add(output)
    return found


def _add(root: Node, nodes: dict[str, Node], users: dict[str, list[str]]) -> None:
    """Add the closure of `root`, depth first. The stack is explicit because closures exceed Python's recursion limit.

    Each derivation reaches the top of the stack twice. The first time, its inputs are pushed; the second time, they are
    all in the graph and the derivation follows them.
    """
    users.setdefault(root.id, [])
    stack = [root]
    entered: set[str] = set()
    while stack:
        node = stack[-1]
        identifier = node.id
        if identifier in nodes:
            stack.pop()
        elif identifier in entered or not isinstance(node, Derivation):
            nodes[identifier] = stack.pop()
        else:
            entered.add(identifier)
            inputs = [edge.node for edge in node.inputs.values()]
            _add_user(identifier, inputs, users)
            stack.extend(reversed(inputs))


def _add_user(user: str, inputs: Iterable[Node], users: dict[str, list[str]]) -> None:
    for node in inputs:
        known = users.setdefault(node.id, [])
        # All edges of a user arrive in one call, so a repeated edge to the same node finds the user in last place.
        if not known or known[-1] != user:
            known.append(user)
