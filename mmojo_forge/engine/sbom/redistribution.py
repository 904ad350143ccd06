"""Finds the nodes of a graph that are not redistributable, because a recipe marks a component in them as restricted.

Pushes and exports skip these nodes, and anything that may contain them. The user can include them, for instance for a
private cache.

1. A node is restricted if it contains a component that is marked as not redistributable.
2. The sources of such components are restricted.
3. A node that contains one of these sources is restricted if no recipe declares the source's components.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.contents import DeclaredContents, Part, whole_of
from mmojo_forge.model.derivation import Node

Restricted = Mapping[str, Sequence[Part]]
"""The restricted nodes by id, each with its parts that are not redistributable."""


def restricted(graph: Graph) -> Restricted:
    """The restricted nodes of the graph; raises ContentsError."""
    components = (component for node in graph.derivations() for component in node.components)
    if not any(component.redistributable is False for component in components):
        return MappingProxyType({})
    contents = DeclaredContents(graph)
    parts = {identifier: contents.of(node) for identifier, node in graph.nodes.items()}
    forbidden = {part.source.id: part for held in parts.values() for part in held if _is_forbidden(part)}
    sources = {whole_of(part.source).holder.id: [part] for part in forbidden.values()}
    inside = {identifier: list(_withheld(held, forbidden)) for identifier, held in parts.items()}
    return {identifier: found for identifier in graph.nodes if (found := sources.get(identifier) or inside[identifier])}


def described(parts: Iterable[Part]) -> str:
    """The components and their licences, for a message."""
    return ", ".join(sorted({f"{part.component.name} ({part.component.licence or 'no licence'})" for part in parts}))


def check_redistributable_graph(operation: str, nodes: Iterable[Node], withheld: Restricted) -> None:
    """Raise EngineError (`not-redistributable`) if one of the nodes is restricted."""
    for node in nodes:
        if parts := withheld.get(node.id):
            raise EngineError(
                f"{operation} {node.name}: not redistributable: {described(parts)}",
                detail="To include it, add --not-redistributable; then share the result only as its licence permits.\n"
                "If the result does not contain it, declare that in the recipe with Spec.containing(…).",
                reason="not-redistributable",
            )


def _is_forbidden(part: Part) -> bool:
    return part.component.redistributable is False


def _withheld(parts: Iterable[Part], forbidden: Mapping[str, Part]) -> Iterator[Part]:
    for part in parts:
        # A source that is contained as a whole, without declared components, may include the restricted one.
        unsaid = part.whole and part.component.redistributable is None and part.source.id in forbidden
        if unsaid or _is_forbidden(part):
            yield part
