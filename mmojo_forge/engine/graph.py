"""The derivation graph of some targets: every node once, inputs before what uses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmojo_forge.model.derivation import Derivation, Node, node_id


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by id in topological order (inputs first), and who uses each."""

    roots: tuple[str, ...]
    nodes: Mapping[str, Node]
    users: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, roots: Iterable[Node]) -> Graph:
        """The closure of `roots`. Derivations cannot be cyclic: an input exists before what names it."""
        wanted = list(roots)
        nodes: dict[str, Node] = {}
        users: dict[str, list[str]] = {}
        for root in wanted:
            _add(root, nodes, users)
        return cls(
            tuple(dict.fromkeys(node_id(root) for root in wanted)),
            nodes,
            {identifier: tuple(dict.fromkeys(names)) for identifier, names in users.items()},
        )

    def derivations(self) -> Iterator[Derivation]:
        """The nodes that are built, inputs first."""
        return (node for node in self.nodes.values() if isinstance(node, Derivation))


def inputs_of(node: Node) -> Iterator[Node]:
    """The nodes that `node` is directly built from."""
    return (edge.node for edge in node.inputs.values()) if isinstance(node, Derivation) else iter(())


def _add(root: Node, nodes: dict[str, Node], users: dict[str, list[str]]) -> None:
    """Depth first with an explicit stack: closures may be deeper than Python's own."""
    if node_id(root) in nodes:
        return
    stack = [(node_id(root), root, inputs_of(root))]
    users.setdefault(node_id(root), [])
    while stack:
        identifier, node, pending = stack[-1]
        for child in pending:
            child_id = node_id(child)
            known = users.get(child_id)
            if known is not None:
                known.append(identifier)
                continue
            users[child_id] = [identifier]
            stack.append((child_id, child, inputs_of(child)))
            break
        else:
            stack.pop()
            nodes[identifier] = node
