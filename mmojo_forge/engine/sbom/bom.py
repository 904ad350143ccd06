"""Makes the bill of materials of a result: its components, their pinned sources, and the tools that built it.

The bill comes from the derivation graph. The id of a node covers everything below it, so a build cannot use anything
outside of the graph. `contents.py` decides which parts of the graph are in the result.

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
"""The item property with the id of its tree."""
SIZE_PROPERTY = "mmojo-forge:size"
"""The item property with its size in bytes."""
REDISTRIBUTABLE_PROPERTY = "mmojo-forge:redistributable"
"""The item property that says whether it is redistributable, "yes" or "no"; absent if the recipe does not say."""
FILE_REF = "file:"
"""The prefix of the refs of packaged files, and of files that were packed into one."""

_PROPERTY = "mmojo-forge:"
_OWN_LICENCE = "Apache-2.0"
_YES, _NO = "yes", "no"


class BomKind(StrEnum):
    """The type of an item, with CycloneDX's values."""

    APPLICATION = "application"
    LIBRARY = "library"
    FILE = "file"
    MODEL = "machine-learning-model"


@dataclass(frozen=True, slots=True)
class Origin:
    """The pinned source that an item is a part of."""

    name: str
    locator: str
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BomItem:
    """One item of a bill. `ref` is unique in the bill.

    `licence` is an SPDX expression, or the package index's own text if that is no valid expression; empty if unknown.
    """

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
    """What `root` consists of. Items are sorted by name.

    - `contained` are the items in the result, `built_with` the sources that were only used to build it.
    - `depends` maps a ref to the refs of the items that it directly consists of.
    - `parts` maps the refs of components to their place in the graph.
    - `sources` are all sources of the closure.
    - `undeclared` are the names of builds in the result whose recipes do not declare their contents.
    """

    root: BomItem
    contained: tuple[BomItem, ...]
    built_with: tuple[BomItem, ...]
    depends: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, Part]
    sources: tuple[AnySource, ...]
    undeclared: tuple[str, ...] = ()

    @property
    def unlicensed(self) -> list[BomItem]:
        """The contained items by third parties without a valid licence. The workspace's own files are exempt."""
        theirs = {ref for ref, part in self.parts.items() if not isinstance(part.source, LocalSource)}
        return [item for item in self.contained if item.ref in theirs and not licence.is_expression(item.licence)]

    @property
    def restricted(self) -> list[BomItem]:
        """The contained items that are not redistributable."""
        return [item for item in self.contained if item.properties.get(REDISTRIBUTABLE_PROPERTY) == _NO]

    def packed(self, root: BomItem, files: Sequence[BomItem]) -> Bill:
        """The bill of the file `root`, which this bill's root and `files` were packed into."""
        refs = (self.root.ref, *(file.ref for file in files))
        return replace(
            self,
            root=root,
            contained=_sorted((*self.contained, self.root, *files)),
            depends={**self.depends, root.ref: tuple(sorted(refs))},
        )

    def joined(self, others: Iterable[Bill]) -> Bill:
        """This bill, extended by the bills of other roots that were packed into the same file."""
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
    """A pin, and the Debian suite of the userland that it belongs to, if any."""

    pin: Pin
    suite: str = ""


def pins_of(lock: Lock) -> dict[BlobDigest, Pinned]:
    """Every pin of the lock that has a BLAKE3, by that digest."""
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
    """The bill of one output of `root`, named `target`. Raises ContentsError.

    `tree` and `hashes` are those of the output, if it is built.
    """
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
    """All sources in the graph."""
    return tuple(source for source in map(contents.source_of, graph.nodes.values()) if source)


def _sorted(items: Iterable[BomItem]) -> tuple[BomItem, ...]:
    return tuple(sorted(items, key=lambda item: (item.name.lower(), item.version, item.ref)))


class _Assembly:
    """Collects the items that a node consists of, from the top down."""

    def __init__(self, describer: _Describer, items: dict[str, BomItem]) -> None:
        self.items = items
        self.depends: dict[str, set[str]] = {}
        self.parts: dict[str, Part] = {}
        self.undeclared: set[str] = set()
        self._describer = describer

    def add(self, node: Derivation, output: str) -> None:
        """Collect everything from the node down. Uses a stack, because closures exceed Python's recursion limit."""
        stack = [(node, output)]
        while stack:
            current, its_output = stack.pop()
            item = self._describer.built(current, its_output)
            if item.ref in self.depends:
                continue
            self.items.setdefault(item.ref, item)
            if contents.undeclared(current):
                self.undeclared.add(current.name)
            built = _built_into(current)
            self.depends[item.ref] = {self._describer.built(*below).ref for below in built.values()}
            self.depends[item.ref] |= {self._part(part) for part in self._parts(current, built)}
            stack.extend(built.values())

    def _parts(self, node: Derivation, built: Mapping[str, object]) -> list[Part]:
        names = [name for name in node.inputs if name not in built]
        return [part for name in names for part in self._describer.contents.selected(node, name)]

    def _part(self, part: Part) -> str:
        item = self._describer.part(part)
        self.items[item.ref] = item
        # A source may be unpacked twice, and only one of the trees may contain its licence.
        if not (item.ref in self.parts and self.parts[item.ref].component.notices):
            self.parts[item.ref] = part
        self.depends.setdefault(item.ref, set())
        return item.ref


def _built_into(node: Derivation) -> dict[str, tuple[Derivation, str]]:
    """The inputs that forge built and that are completely in the node's outputs: input name → (node, output)."""
    return {
        name: (edge.node, edge.output)
        for name, edge in node.inputs.items()
        if isinstance(edge.node, Derivation) and not edge.node.is_builtin and contents.contained(node, name) == ALL
    }


def _tools(graph: Graph, graph_contents: DeclaredContents, contained: Iterable[Part]) -> list[Part]:
    """The sources that only served to build the result, with the names that recipes give them.

    A source with parts in the result is also a tool if a recipe names it as a whole. For example, a result contains
    zig's C library, and zig itself is the compiler.
    """
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
    """The part for a source that recipes name only parts of. Its licence combines those of the parts."""
    whole = contents.whole_of(source)
    licences = licence.all_of(part.component.licence for part in parts)
    return replace(whole, component=replace(whole.component, licence=licences))


class _Describer:
    """Makes items from nodes and components, with facts from the lock."""

    def __init__(self, pins: Mapping[BlobDigest, Pinned], workspace: Path, graph_contents: DeclaredContents) -> None:
        self.contents = graph_contents
        self._pins = pins
        self._workspace = workspace
        self._built: dict[tuple[DerivationId, str], BomItem] = {}

    def built(self, node: Derivation, output: str) -> BomItem:
        """The item of a build output. Its licence combines the licences of all its parts."""
        if (node.id, output) not in self._built:
            self._built[node.id, output] = self._make_built(node, output)
        return self._built[node.id, output]

    def _make_built(self, node: Derivation, output: str) -> BomItem:
        return BomItem(
            f"derivation:{node.id}^{output}",
            node.name if output == "out" else f"{node.name}-{output}",
            BomKind.APPLICATION,
            # A tree id would say more. But somebody who downloads the result may not know the trees of its inputs.
            version=node.id[:12],
            licence=licence.all_of(self.part(part).licence for part in self.contents.of(node)),
            properties={f"{_PROPERTY}derivation": node.id, f"{_PROPERTY}label": str(node.label)},
        )

    def part(self, part: Part) -> BomItem:
        """The item of a component."""
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
        # Files outside of the workspace belong to forge itself. Its install location must not appear in a bill.
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
