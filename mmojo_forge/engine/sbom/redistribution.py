"""What of a graph is not passed on by itself, as a recipe says that its licence keeps it from others.

It goes into no cache and into no bundle unless one asks for it: a cache of one's own may well have it.

1. A node is kept back that has a component in it which a recipe says so of.
2. The sources that such components came in are kept back too, for nothing but the component may be in them.
3. So is whatever has one of these sources in it of which no recipe says what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.contents import Contents, Part, whole_of
from mmojo_forge.model.derivation import Node

Restricted = Mapping[str, Sequence[Part]]
"""Nodes by id, with what in them may not be passed on."""


def restricted(graph: Graph) -> Restricted:
    """What of the graph may not be passed on; raises ContentsError."""
    if not any(one.redistributable is False for node in graph.derivations() for one in node.components):
        return MappingProxyType({})
    contents = Contents(graph)
    parts = {identifier: contents.of(node) for identifier, node in graph.nodes.items()}
    forbidden = {part.source.id: part for each in parts.values() for part in each if _is_forbidden(part)}
    sources = {whole_of(part.source).holder.id: [part] for part in forbidden.values()}
    inside = {identifier: list(_withheld(each, forbidden)) for identifier, each in parts.items()}
    return {identifier: found for identifier in graph.nodes if (found := sources.get(identifier) or inside[identifier])}


def described(parts: Iterable[Part]) -> str:
    """The components and their licences, for a message."""
    return ", ".join(sorted({f"{part.component.name} ({part.component.licence or 'no licence'})" for part in parts}))


def check_redistributable_graph(operation: str, nodes: Iterable[Node], withheld: Restricted) -> None:
    """Raise EngineError (`not-redistributable`) if one of the nodes is among those kept back."""
    for node in nodes:
        if parts := withheld.get(node.id):
            raise EngineError(
                f"{operation} {node.name}: {described(parts)} in it may not be passed on",
                detail="--not-redistributable does it all the same: where it goes has to stay among those who may have "
                "it.\nA recipe that has it for an input, and not in its result, says so with Spec.containing(…).",
                reason="not-redistributable",
            )


def _is_forbidden(part: Part) -> bool:
    return part.component.redistributable is False


def _withheld(parts: Iterable[Part], forbidden: Mapping[str, Part]) -> Iterator[Part]:
    for part in parts:
        unsaid = part.whole and part.component.redistributable is None and part.source.id in forbidden
        if unsaid or _is_forbidden(part):
            yield part
