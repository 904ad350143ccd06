"""Finds which components are in the outputs of each node, from what recipes declare along the graph.

- A source consists of itself.
- An unpacked tree contains all its archives, under the names that its recipe gives them.
- A build contains the components of its inputs that its recipe lists.
- A build without such a list counts as containing all its inputs except its userland, so that a bill omits nothing.
  The bill names it as undeclared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.purl import project_of
from mmojo_forge.model.derivation import ALL, Component, Derivation, Download, LocalSource, Node, Source, downloading

USERLAND = "/usr"
"""The mount point of the userland, which has the programs that a build runs."""

AnySource = Source | Download | LocalSource


class ContentsError(EngineError):
    """A recipe declares contents that the graph does not have."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component, the source that it comes from, and the node (`holder`) whose tree has its licence texts."""

    component: Component
    source: AnySource
    holder: Node

    @property
    def whole(self) -> bool:
        """Whether the component is the complete source, and not a part of it."""
        return self.component.version is None

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the part: name, version, source."""
        return self.component.name, self.component.version or "", self.source.id


class DeclaredContents:
    """The components of every node of a graph.

    Raises ContentsError (`no-such-component`, `component-unclear`) if a recipe's declarations contradict the graph.
    """

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
        """The parts that are in a node's outputs."""
        return self._parts[node.id]

    def declared(self, node: Derivation) -> Iterator[Part]:
        """The parts that the node's own recipe declares for its sources."""
        return (part for parts in self._declared[node.id].values() for part in parts)

    def selected(self, node: Derivation, name: str) -> Iterator[Part]:
        """The parts of an input that are in the node's outputs. Parts with the same name are different versions."""
        wanted = contained(node, name)
        if wanted:
            available = self._available(node, name)
            yield from (part for part in available if wanted == ALL or part.component.name in wanted)

    def _available(self, node: Derivation, name: str) -> Sequence[Part]:
        return self._declared[node.id].get(name) or self._parts[node.inputs[name].node.id]

    def _check(self, node: Derivation) -> None:
        """Raise ContentsError if a listed component is in none of its inputs."""
        # One input in a recipe may become several in the derivation. Their components are searched together.
        inputs: dict[tuple[str, ...], list[str]] = {}
        for name in node.inputs:
            inputs.setdefault(contained(node, name), []).append(name)
        for wanted, names in inputs.items():
            found = {part.component.name for name in names for part in self._available(node, name)} if wanted else ()
            missing = [component for component in wanted if wanted != ALL and component not in found]
            if missing:
                raise ContentsError(
                    f"list the contents of {node.name}: {names[0]} has no component {', '.join(missing)}",
                    detail=f"It has: {', '.join(sorted(found)) or 'none'}. Its recipe declares them with made_of(…).",
                    reason="no-such-component",
                )


def source_of(node: Node) -> AnySource | None:
    """The source of the node; None if the node is built."""
    return node.download if isinstance(node, Derivation) else node


def whole_of(source: AnySource) -> Part:
    """The source as a single component, for a source without declared components."""
    holder = downloading(source) if isinstance(source, Download) else source
    return Part(Component(_name_of(source)), source, holder)


def contained(node: Derivation, name: str) -> tuple[str, ...]:
    """The names of an input's components that are in the node's outputs, or ALL."""
    if node.contents is not None:
        return node.contents.get(name, ())
    return () if not node.is_builtin and node.inputs[name].at == USERLAND else ALL


def undeclared(node: Node) -> bool:
    """Whether the node is a build whose recipe does not list its contents."""
    return isinstance(node, Derivation) and not node.is_builtin and node.contents is None


def _name_of(source: AnySource) -> str:
    return source.name if isinstance(source, LocalSource) else project_of(source)


def _declared(node: Derivation) -> dict[str, list[Part]]:
    """The components that the node's recipe declares, by the name of the input that contains them."""
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
            # Licence texts are read from the unpacked tree if this node unpacks, else from the input.
            holder = node if node.is_builtin else node.inputs[name].node
            declared.setdefault(name, []).append(Part(component, sources[name], holder))
    return declared


def _unclear(node: Derivation, component: Component, known: Mapping[str, object]) -> ContentsError:
    wanted = component.of or component.name
    return ContentsError(
        f"list the components of {node.name}: {component.name} belongs to {wanted}, which is not one of its sources",
        detail=f"Component(…, of=…) must name a source of {node.name}: {', '.join(sorted(known)) or 'it has none'}.",
        reason="component-unclear",
    )
