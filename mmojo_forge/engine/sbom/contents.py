"""What is in the outputs of a node: which components of which sources, as recipes declare it along the graph.

From below: a source is made of itself; what forge unpacks has all of its archives, under the names that its recipe
gives to them; a build has of each input what its recipe says. A build that says nothing may have anything in it but
the userland it ran in: all of that is counted, so that nothing is left out, and the build is told of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.purl import project_of
from mmojo_forge.model.derivation import ALL, Component, Derivation, Download, LocalSource, Node, Source, downloading

USERLAND = "/usr"
"""Where the programs lie that a build runs."""

AnySource = Source | Download | LocalSource


class ContentsError(EngineError):
    """A recipe that says of a build that something is in it which is not there."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component in the graph: the source that brings it, and the node in whose tree its licence texts lie."""

    component: Component
    source: AnySource
    holder: Node

    @property
    def whole(self) -> bool:
        """Whether it is the source itself, rather than a part of it."""
        return self.component.version is None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others: name, version, source."""
        return self.component.name, self.component.version or "", self.source.id


class DeclaredContents:
    """What the nodes of a graph consist of; raises ContentsError (`no-such-component`, `component-unclear`) where what
    recipes say does not fit the graph."""

    def __init__(self, graph: Graph) -> None:
        self._parts: dict[str, tuple[Part, ...]] = {}
        self._declared: dict[str, Mapping[str, Sequence[Part]]] = {}
        for identifier, node in graph.nodes.items():
            if isinstance(node, Derivation):
                self._declared[identifier] = _declared(node)
                self._check(node)
            self._parts[identifier] = tuple({part.key: part for part in self._found(node)}.values())

    def _found(self, node: Node) -> Iterator[Part]:
        if source := source_of(node):
            yield whole_of(source)
        elif isinstance(node, Derivation):
            for name in node.inputs:
                yield from self.selected(node, name)

    def of(self, node: Node) -> tuple[Part, ...]:
        """What a node of the graph consists of."""
        return self._parts[node.id]

    def declared(self, node: Derivation) -> Iterator[Part]:
        """What the node's own recipe says that its sources are made of."""
        return (part for parts in self._declared[node.id].values() for part in parts)

    def selected(self, node: Derivation, name: str) -> Iterator[Part]:
        """The parts that an input brings into the node's outputs; several of one name are versions of it."""
        wanted = contained(node, name)
        if wanted:
            available = self._available(node, name)
            yield from (part for part in available if wanted == ALL or part.component.name in wanted)

    def _available(self, node: Derivation, name: str) -> Sequence[Part]:
        return self._declared[node.id].get(name) or self._parts[node.inputs[name].node.id]

    def _check(self, node: Derivation) -> None:
        """Some of the inputs that a recipe names become many, among which its components are found."""
        inputs: dict[tuple[str, ...], list[str]] = {}
        for name in node.inputs:
            inputs.setdefault(contained(node, name), []).append(name)
        for wanted, names in inputs.items():
            found = {part.component.name for name in names for part in self._available(node, name)} if wanted else ()
            missing = [component for component in wanted if wanted != ALL and component not in found]
            if missing:
                raise ContentsError(
                    f"list what {node.name} contains: {names[0]} has no component {', '.join(missing)}",
                    detail=f"It has {', '.join(sorted(found)) or 'none'}; its recipe says so with made_of(…).",
                    reason="no-such-component",
                )


def source_of(node: Node) -> AnySource | None:
    """The source that the node is, if it is one."""
    return node.download if isinstance(node, Derivation) else node


def whole_of(source: AnySource) -> Part:
    """A source as the one component that it is if no recipe says more of it."""
    holder = downloading(source) if isinstance(source, Download) else source
    return Part(Component(_name_of(source)), source, holder)


def contained(node: Derivation, name: str) -> tuple[str, ...]:
    """The names of the components of an input that are in the node's outputs, or ALL."""
    if node.contents is not None:
        return node.contents.get(name, ())
    return () if not node.is_builtin and node.inputs[name].at == USERLAND else ALL


def undeclared(node: Node) -> bool:
    """Whether nobody said what is in the node's outputs."""
    return isinstance(node, Derivation) and not node.is_builtin and node.contents is None


def _name_of(source: AnySource) -> str:
    return source.name if isinstance(source, LocalSource) else project_of(source)


def _declared(node: Derivation) -> dict[str, list[Part]]:
    """The components that the node's recipe declares, by the input that each is of."""
    declared: dict[str, list[Part]] = {}
    if node.components:
        found = {name: source_of(edge.node) for name, edge in node.inputs.items()}
        sources = {name: source for name, source in found.items() if source}
        inputs = {word: name for name, source in sources.items() for word in (name, source.name, _name_of(source))}
        for component in node.components:
            only = next(iter(sources)) if len(sources) == 1 and not component.of else ""
            name = only or inputs.get(component.of or component.name, "")
            if not name:
                raise _unclear(node, component, inputs)
            # Texts lie where they can be read: unpacked, if that is what the node does.
            holder = node if node.is_builtin else node.inputs[name].node
            declared.setdefault(name, []).append(Part(component, sources[name], holder))
    return declared


def _unclear(node: Derivation, component: Component, known: Mapping[str, object]) -> ContentsError:
    wanted = component.of or component.name
    return ContentsError(
        f"list what {node.name} is made of: {component.name} is of {wanted}, which is none of its sources",
        detail=f"Component(…, of=…) names one of {', '.join(sorted(known)) or 'its sources, of which it has none'}.",
        reason="component-unclear",
    )
