"""What of a graph is not passed on by itself, as a recipe says that its licence keeps it from others.

It goes into no cache and into no bundle unless one asks for it: a cache of one's own may well have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from mmojo_forge.engine.contents import Contents, Part
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.model.derivation import Node


def kept_back(graph: Graph) -> Mapping[str, Sequence[Part]]:
    """The nodes, by id, with something in them that may not be passed on, and what that is; raises ContentsError."""
    if not _any_declared(graph):
        return MappingProxyType({})
    contents = Contents(graph)
    withheld = {
        identifier: parts for identifier, node in graph.nodes.items() if (parts := _withheld(contents.of(node)))
    }
    # A source is what it is whoever unpacks it: its own node says nothing of its licence.
    wholes = {part.source.id: [part] for parts in withheld.values() for part in parts if part.whole}
    return {**{identifier: parts for identifier, parts in wholes.items() if identifier in graph.nodes}, **withheld}


def described(parts: Iterable[Part]) -> str:
    """The components and their licences, for a message."""
    return ", ".join(sorted({f"{part.component.name} ({part.component.licence})" for part in parts}))


def check_passed_on(operation: str, nodes: Iterable[Node], withheld: Mapping[str, Sequence[Part]]) -> None:
    """Raise EngineError (`not-redistributable`) if one of the nodes is among those kept back."""
    for node in nodes:
        if parts := withheld.get(node.id):
            raise EngineError(
                f"{operation} {node.name}: {described(parts)} in it may not be passed on",
                detail="--not-redistributable does it all the same: where it goes has to stay among those who may have "
                "it.\nA recipe that has it for an input, and not in its result, says so with Spec.containing(…).",
                reason="not-redistributable",
            )


def _any_declared(graph: Graph) -> bool:
    return any(one.redistributable is False for node in graph.derivations() for one in node.components)


def _withheld(parts: Iterable[Part]) -> Sequence[Part]:
    return [part for part in parts if part.component.redistributable is False]
