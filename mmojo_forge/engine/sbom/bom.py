"""A bill of materials: what is in a result, from which pinned sources, and what it was built with.

It is made from the derivation graph, of which every node is identified by all that is below it: what is not in the
graph cannot have been in the build. `engine/contents.py` says what of it got into the result.

    root ─▶ what forge built into it (a slice, a library) ─▶ components of sources
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from mmojo_forge import __version__
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom import contents, licence
from mmojo_forge.engine.sbom.contents import AnySource, DeclaredContents, Part
from mmojo_forge.engine.sbom.purl import generic, project_of, purl_of
from mmojo_forge.engine.workspace import FORGE_ROOT
from mmojo_forge.model.derivation import ALL, Component, Derivation, Download, LocalSource, Source
from mmojo_forge.model.digest import BlobDigest, DerivationId, TreeId
from mmojo_forge.model.lockfile import Lock, Pin

SHA256, BLAKE3 = "SHA-256", "BLAKE3"
TREE_PROPERTY = "mmojo-forge:tree"
"""The property of an item that has the id of its tree."""
SIZE_PROPERTY = "mmojo-forge:size"
"""The property of an item that has its size in bytes."""
REDISTRIBUTABLE_PROPERTY = "mmojo-forge:redistributable"
"""The property of an item whose recipe says whether it is redistributable: yes or no."""
FILE_REF = "file:"
"""How the refs of files begin that were packed into another, or others into them."""

_PROPERTY = "mmojo-forge:"
_OWN_LICENCE = "Apache-2.0"
_YES, _NO = "yes", "no"


class BomKind(StrEnum):
    """What sort of thing an item is; the values are CycloneDX's."""

    APPLICATION = "application"
    LIBRARY = "library"
    FILE = "file"
    MODEL = "machine-learning-model"


@dataclass(frozen=True, slots=True)
class Origin:
    """The pinned source that an item was taken out of."""

    name: str
    locator: str
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BomItem:
    """One line of a bill. `ref` tells it from all others in it; `licence` is an SPDX expression, what the index says
    if that is none, or nothing if nobody knows."""

    ref: str
    name: str
    kind: BomKind = BomKind.LIBRARY
    version: str = ""
    licence: str = ""
    purl: str = ""
    cpe: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bill:
    """What `root` is made of. Items are sorted by name; `depends` has the items that each is directly made of, and
    `parts` where those that come from sources stand in the graph. `sources` is every source of the closure.
    `undeclared` names the builds in it of which nobody said what they contain."""

    root: BomItem
    contained: tuple[BomItem, ...]
    built_with: tuple[BomItem, ...]
    depends: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, Part]
    sources: tuple[AnySource, ...]
    undeclared: tuple[str, ...] = ()

    @property
    def unlicensed(self) -> list[BomItem]:
        """What others wrote that is in the result, under a licence that nobody named. Under which one the files of a
        workspace are passed on is for their owner to know."""
        theirs = {ref for ref, part in self.parts.items() if not isinstance(part.source, LocalSource)}
        return [item for item in self.contained if item.ref in theirs and not licence.is_expression(item.licence)]

    @property
    def restricted(self) -> list[BomItem]:
        """What is in the result although its licence does not let everybody pass it on."""
        return [item for item in self.contained if item.properties.get(REDISTRIBUTABLE_PROPERTY) == _NO]

    def packed(self, root: BomItem, files: Sequence[BomItem]) -> Bill:
        """The bill of `root`, a file into which this bill's root and these files were packed."""
        refs = (self.root.ref, *(file.ref for file in files))
        return replace(
            self,
            root=root,
            contained=_sorted((*self.contained, self.root, *files)),
            depends={**self.depends, root.ref: tuple(sorted(refs))},
        )

    def joined(self, others: Iterable[Bill]) -> Bill:
        """This bill with those of others, whose roots were packed into what this one's root was packed into."""
        bills = (self, *others)
        added = {other.root.ref for other in bills[1:]}
        contained = {item.ref: item for bill in bills for item in (*bill.contained, bill.root)}
        del contained[self.root.ref]
        tools = {item.ref: item for bill in bills for item in bill.built_with if item.ref not in contained}
        depends = {ref: below for bill in bills for ref, below in bill.depends.items()}
        return Bill(
            self.root,
            _sorted(contained.values()),
            _sorted(tools.values()),
            {**depends, self.root.ref: tuple(sorted({*depends.get(self.root.ref, ()), *added}))},
            {ref: part for bill in bills for ref, part in bill.parts.items()},
            tuple(dict.fromkeys(source for bill in bills for source in bill.sources)),
            tuple(sorted({name for bill in bills for name in bill.undeclared})),
        )


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin, and the suite of the userland that it is in."""

    pin: Pin
    suite: str = ""


def pins_of(lock: Lock) -> dict[BlobDigest, Pinned]:
    """Every pin of the lock, by content."""
    suites = {pin.blake3: land.suite for land in lock.userlands.values() for pin in land.closure.values()}
    return {pin.blake3: Pinned(pin, suites.get(pin.blake3, "")) for pin in lock.pins() if pin.measured}


def make_bill(
    root: Derivation,
    output: str,
    target: str,
    lock: Lock,
    *,
    workspace: Path,
    tree: TreeId | None = None,
    hashes: Mapping[str, str] | None = None,
) -> Bill:
    """The bill of one output, which is called `target`; `tree` is what it was built to, and its content has these
    hashes, as far as that is known. Raises ContentsError."""
    graph = Graph.of([root])
    graph_contents = DeclaredContents(graph)
    describer = _Describer(pins_of(lock), workspace, graph_contents)
    top = describer.built(root, output)
    if tree:
        top = replace(top, properties={**top.properties, TREE_PROPERTY: tree})
    top = replace(top, name=target, hashes=hashes or {})
    assembly = _Assembly(describer, {top.ref: top})
    assembly.add(root, output)
    items = [item for ref, item in assembly.items.items() if ref != top.ref]
    return Bill(
        top,
        _sorted(items),
        _sorted(describer.part(part) for part in _tools(graph, graph_contents, assembly.parts.values())),
        {ref: tuple(sorted(below)) for ref, below in sorted(assembly.depends.items())},
        assembly.parts,
        sources_of(graph),
        tuple(sorted(assembly.undeclared)),
    )


def sources_of(graph: Graph) -> tuple[AnySource, ...]:
    """Every source in the graph."""
    return tuple(source for source in map(contents.source_of, graph.nodes.values()) if source)


def _sorted(items: Iterable[BomItem]) -> tuple[BomItem, ...]:
    return tuple(sorted(items, key=lambda item: (item.name.lower(), item.version, item.ref)))


class _Assembly:
    """Collects what a node is made of, from the top down."""

    def __init__(self, describer: _Describer, items: dict[str, BomItem]) -> None:
        self.items = items
        self.depends: dict[str, set[str]] = {}
        self.parts: dict[str, Part] = {}
        self.undeclared: set[str] = set()
        self._describer = describer

    def add(self, node: Derivation, output: str) -> None:
        """Collect from the node downwards; closures may be deeper than Python's stack."""
        stack = [(node, output)]
        while stack:
            one, its_output = stack.pop()
            item = self._describer.built(one, its_output)
            if item.ref in self.depends:
                continue
            self.items.setdefault(item.ref, item)
            if contents.undeclared(one):
                self.undeclared.add(one.name)
            built = _built_into(one)
            self.depends[item.ref] = {self._describer.built(*below).ref for below in built.values()}
            self.depends[item.ref] |= {self._part(one_part) for one_part in self._parts(one, built)}
            stack.extend(built.values())

    def _parts(self, node: Derivation, built: Mapping[str, object]) -> list[Part]:
        names = [name for name in node.inputs if name not in built]
        return [part for name in names for part in self._describer.contents.selected(node, name)]

    def _part(self, part: Part) -> str:
        item = self._describer.part(part)
        self.items[item.ref] = item
        # One thing may be unpacked twice, and only one of the trees have its licence.
        if not (item.ref in self.parts and self.parts[item.ref].component.notices):
            self.parts[item.ref] = part
        self.depends.setdefault(item.ref, set())
        return item.ref


def _built_into(node: Derivation) -> dict[str, tuple[Derivation, str]]:
    """The inputs that forge built and that are in the node's outputs as a whole, each with its output."""
    return {
        name: (edge.node, edge.output)
        for name, edge in node.inputs.items()
        if isinstance(edge.node, Derivation) and not edge.node.is_builtin and contents.contained(node, name) == ALL
    }


def _tools(graph: Graph, graph_contents: DeclaredContents, contained: Iterable[Part]) -> list[Part]:
    """The sources that are not in the result, under the names that recipes give them. A source of which only parts are
    in the result, and which has a name of its own, is a tool as well: zig, of which the C library is linked."""
    inside = list(contained)
    whole_inside = {part.source.id for part in inside if part.whole}
    partly_inside = {part.source.id for part in inside if not part.whole}
    declared: dict[str, list[Part]] = {}
    for node in graph.derivations():
        for part in graph_contents.declared(node):
            declared.setdefault(part.source.id, []).append(part)
    tools: list[Part] = []
    for source in sources_of(graph):
        known = declared.get(source.id, [])
        whole = next((part for part in known if part.whole), None)
        if source.id not in whole_inside and (whole or source.id not in partly_inside):
            tools.append(whole or _unnamed(source, known))
    return tools


def _unnamed(source: AnySource, parts: Sequence[Part]) -> Part:
    """A source of which recipes name only parts."""
    part = contents.whole_of(source)
    licences = licence.all_of(one.component.licence for one in parts)
    return replace(part, component=replace(part.component, licence=licences))


class _Describer:
    """Makes items of what stands in the graph, with what the lock knows of it."""

    def __init__(self, pins: Mapping[BlobDigest, Pinned], workspace: Path, graph_contents: DeclaredContents) -> None:
        self.contents = graph_contents
        self._pins = pins
        self._workspace = workspace
        self._built: dict[tuple[DerivationId, str], BomItem] = {}

    def built(self, node: Derivation, output: str) -> BomItem:
        """The item of what forge built; as it is made of its parts, it is under the licences of all of them."""
        if (node.id, output) not in self._built:
            self._built[node.id, output] = self._make_built(node, output)
        return self._built[node.id, output]

    def _make_built(self, node: Derivation, output: str) -> BomItem:
        return BomItem(
            f"derivation:{node.id}^{output}",
            node.name if output == "out" else f"{node.name}-{output}",
            BomKind.APPLICATION,
            # Trees would say more, but who downloads the result need not know them of what it was built from.
            version=node.id[:12],
            licence=licence.all_of(self.part(part).licence for part in self.contents.of(node)),
            properties={f"{_PROPERTY}derivation": node.id, f"{_PROPERTY}label": str(node.label)},
        )

    def part(self, part: Part) -> BomItem:
        """The item of a component of a source."""
        if isinstance(part.source, LocalSource):
            return self._local(part.component, part.source)
        digest = part.source.digest if isinstance(part.source, Source) else BlobDigest("")
        pinned = self._pins.get(digest) or Pinned(_unpinned(part.source, digest))
        component, hashes = part.component, {SHA256: part.source.sha256, **({BLAKE3: digest} if digest else {})}
        short = (digest or part.source.sha256)[:12]
        licensed = component.licence or pinned.pin.licence
        if not part.whole:
            version = component.version or ""
            purl = component.purl or generic(component.name, version)
            origin = Origin(project_of(part.source), part.source.locator, hashes)
            ref = f"{purl}#{component.name}@{short}"
            return BomItem(
                ref,
                component.name,
                BomKind.LIBRARY,
                version,
                licensed,
                purl,
                component.cpe,
                origin=origin,
                properties=_passing_on(component),
            )
        version = pinned.pin.version
        purl = component.purl or purl_of(part.source, version, suite=pinned.suite)
        properties = {f"{_PROPERTY}locator": part.source.locator, **_passing_on(component)}
        ref = f"{purl}#{short}"
        return BomItem(
            ref, component.name, _kind(part.source), version, licensed, purl, component.cpe, hashes, None, properties
        )

    def _local(self, component: Component, source: LocalSource) -> BomItem:
        own = Path(source.path).is_relative_to(FORGE_ROOT)
        path = self._local_name(source)
        return BomItem(
            f"tree:{source.tree}",
            path if component.name == source.name else component.name,
            BomKind.FILE,
            component.version or (__version__ if own else ""),
            component.licence or (_OWN_LICENCE if own else ""),
            properties={f"{_PROPERTY}path": path, TREE_PROPERTY: source.tree},
        )

    def _local_name(self, source: LocalSource) -> str:
        # What lies elsewhere than in the workspace is forge itself, wherever that is installed.
        path = Path(source.path)
        base = FORGE_ROOT.parent if path.is_relative_to(FORGE_ROOT) else self._workspace
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _passing_on(component: Component) -> dict[str, str]:
    if component.redistributable is None:
        return {}
    return {REDISTRIBUTABLE_PROPERTY: _YES if component.redistributable else _NO}


def _unpinned(source: Source | Download, digest: BlobDigest) -> Pin:
    return Pin(source.name, source.locator, source.sha256, digest, source.size)


def _kind(source: Source | Download) -> BomKind:
    return BomKind.MODEL if source.name.endswith(".gguf") else BomKind.LIBRARY
