"""The derivation graph of some targets: every node once, inputs before what uses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmojo_forge.model.derivation import Derivation, Node


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by id in topological order (inputs first), and who uses each."""

    roots: tuple[str, ...]
    nodes: Mapping[str, Node]
    users: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, roots: Iterable[Node]) -> Graph:
        """The closure of `roots`. Derivations cannot be cyclic: an input exists before what names it."""
        wanted = list(roots)
        nodes: dict[str, Node] = {}
        users: dict[str, list[str]] = {}
        for root in wanted:
            _add(root, nodes, users)
        return cls(tuple(dict.fromkeys(root.id for root in wanted)), nodes, users)

    def derivations(self) -> Iterator[Derivation]:
        """The nodes that are built, inputs first."""
        return (node for node in self.nodes.values() if isinstance(node, Derivation))


def inputs_of(node: Node) -> Iterator[Node]:
    """The nodes that `node` is directly built from."""
    return (edge.node for edge in node.inputs.values()) if isinstance(node, Derivation) else iter(())


def _add(root: Node, nodes: dict[str, Node], users: dict[str, list[str]]) -> None:
    """Depth first with an explicit stack: closures may be deeper than Python's own.

    A node is on top of the stack twice: at first its inputs are put above it, then they are all in the graph.
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
        # All edges of one user come here together, so that a second one to the same node finds the first at the end.
        if not known or known[-1] != user:
            known.append(user)
