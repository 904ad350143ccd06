"""Which nodes of a graph are not redistributable, because a recipe marks a component in them as restricted.

Pushes and exports skip them, and anything that may contain them, unless the user asks for them: a cache of one's own
may have them.

1. A node is restricted if a component in it is marked as not redistributable.
2. The sources that brought such a component are restricted, for nothing else may be in them.
3. A node that has one of these sources in it is restricted if no recipe says what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.contents import DeclaredContents, Part, whole_of
from mmojo_forge.model.derivation import Node

Restricted = Mapping[str, Sequence[Part]]
"""Nodes by id, each with the parts in it that are not redistributable."""


def restricted(graph: Graph) -> Restricted:
    """The restricted nodes of the graph; raises ContentsError."""
    if not any(one.redistributable is False for node in graph.derivations() for one in node.components):
        return MappingProxyType({})
    contents = DeclaredContents(graph)
    parts = {identifier: contents.of(node) for identifier, node in graph.nodes.items()}
    forbidden = {part.source.id: part for each in parts.values() for part in each if _is_forbidden(part)}
    sources = {whole_of(part.source).holder.id: [part] for part in forbidden.values()}
    inside = {identifier: list(_withheld(each, forbidden)) for identifier, each in parts.items()}
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
                detail="--not-redistributable includes it; only people whom its licence allows may get it then.\n"
                "If it is an input and not in the result, the recipe says so with Spec.containing(…).",
                reason="not-redistributable",
            )


def _is_forbidden(part: Part) -> bool:
    return part.component.redistributable is False


def _withheld(parts: Iterable[Part], forbidden: Mapping[str, Part]) -> Iterator[Part]:
    for part in parts:
        unsaid = part.whole and part.component.redistributable is None and part.source.id in forbidden
        if unsaid or _is_forbidden(part):
            yield part
