"""Derivations and sources: the build graph as immutable data.

A derivation refers to other derivations as inputs. Its *derivation id* hashes that graph and is known before anything
is built. Its *action key* hashes the same document, with each input replaced by the tree that it was built to. So a
toolchain that is rebuilt to the same bytes changes no key above it.
Both are BLAKE3 over canonical JSON. The store keeps the hashed documents, so that explanations can compare them.

    Label                            reproducible on any machine, or host-specific with the facts used
    Limits                           the bounds of one build
    Aspect                           what `forge check` varies in a rebuild
    Component, Notice                software in a source, for bills of materials; no part of any identity
    Source, Download, LocalSource    nodes whose content is fixed
    Input, Derivation                an edge of the graph, and a build step
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

from mmojo_forge.errors import ForgeError
from mmojo_forge.model import canonical
from mmojo_forge.model.canonical import text
from mmojo_forge.model.digest import ActionKey, BlobDigest, DerivationId, Sha256, TreeId, blake3_hex
from mmojo_forge.model.tree import Tree


@dataclass(frozen=True, slots=True)
class Label:
    """The label `reproducible`, without facts, or `host-specific`, with the host facts that the build used.

    It spreads upwards: a derivation with a host-specific input is host-specific, with the same facts.
    """

    facts: tuple[tuple[str, str], ...] = ()
    canonical_text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Computed once, because one label occurs in the preimages of very many derivations.
        object.__setattr__(self, "canonical_text", canonical.text(self.to_json()))

    @property
    def reproducible(self) -> bool:
        """Whether every machine gets the same bytes."""
        return not self.facts

    def joined(self, others: Iterable[Label]) -> Label:
        """This label with the facts of `others` added."""
        added = [other.facts for other in others if other.facts]
        if not added:
            return self
        return Label(tuple(sorted(dict(chain(self.facts, *added)).items())))

    def __str__(self) -> str:
        if self.reproducible:
            return "reproducible"
        return "host-specific: " + ", ".join(f"{name}={value}" for name, value in self.facts)

    def to_json(self) -> canonical.Json:
        """The label as a JSON value, for preimages and for commands."""
        return {"facts": dict(self.facts), "reproducible": self.reproducible}


REPRODUCIBLE = Label()


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one build. They are no part of any identity, because a larger bound does not change the result."""

    wall_seconds: float = 4 * 3600
    silent_seconds: float = 1800
    memory_bytes: int = 16 << 30
    processes: int = 4096
    output_bytes: int = 16 << 30
    output_files: int = 500_000
    log_bytes: int = 256 << 20


class Aspect(StrEnum):
    """One thing that a build must not depend on."""

    PARALLELISM = "parallelism"
    AFFINITY = "cpu-affinity"
    TIME = "real-time"
    CLOCK = "shifted-clock"
    ORDER = "directory-order"
    BUILD_PATH = "build-path"
    STORE_PATH = "store-path"
    FILE_SYSTEM = "file-system"
    UMASK = "umask"
    ENVIRONMENT = "host-environment"
    LOCALE = "host-locale"
    TIME_ZONE = "host-time-zone"
    UID = "host-uid"
    HOSTNAME = "host-name"
    PERSONALITY = "kernel-personality"
    ASLR = "aslr"
    CPU_MODEL = "cpu-model"


# Aspects that `forge check` always varies, because every rebuild happens in another place at another time.
INHERENT = frozenset({Aspect.TIME, Aspect.BUILD_PATH, Aspect.STORE_PATH, Aspect.FILE_SYSTEM})


ALL = ("*",)
"""In `contents`: the outputs contain all components of an input."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A licence text in a source: a whole file, or its lines from one with `begin` to one with `end`."""

    path: str
    begin: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One piece of software in a source: the source itself if it has no `version`, otherwise a part of the source.

    `licence` is an SPDX expression. `purl` is a package URL, for when the pin of the source has none or a wrong one.
    `cpe` is VENDOR:PRODUCT in the national vulnerability database. `notices` are the texts that must accompany copies,
    as paths in the unpacked tree. `of` names the source, or the input, if there are several. `redistributable` says
    whether everybody may pass it on; None if the recipe says nothing.
    """

    name: str
    version: str | None = None
    licence: str = ""
    purl: str = ""
    cpe: str = ""
    notices: tuple[str | Notice, ...] = ()
    of: str = ""
    redistributable: bool | None = None


SCHEMA = 1
BUILTIN = "builtin:"
"""Prefix of builders that forge runs itself, outside any sandbox. They treat their data as hostile."""
DOWNLOAD = f"{BUILTIN}download"
"""The builder of sources whose SHA-256 alone is known."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_INPUT = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,99}")
_OUTPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_ONLY_OUTPUT = ("out",)
# Templates instead of canonical.encode: large graphs encode hundreds of thousands of these objects.
_DOCUMENT = canonical.template("args", "builder", "env", "inputs", "label", "name", "outputs", "schema", "system")
_TREE = canonical.template("at", "tree")
_DERIVATION_OUTPUT = canonical.template("at", "derivation", "output")


class DerivationError(ForgeError):
    """The description of a build step is invalid: a bad name, variable, input or output."""


@dataclass(frozen=True, slots=True)
class Source:
    """A fixed-output derivation: one file whose content is known beforehand. Only sources touch the network.

    The locator says where to look for the file. It is no part of the identity, so a mirror may change without a
    rebuild. `size` in bytes.
    """

    name: str
    locator: str
    digest: BlobDigest
    size: int
    sha256: Sha256
    executable: bool = False
    mirrors: tuple[str, ...] = ()
    tree: TreeId = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        tree = Tree.of_file(self.digest, self.size, executable=self.executable)
        object.__setattr__(self, "tree", tree.id)

    @property
    def id(self) -> str:
        """The id of the source within a graph."""
        return f"source:{self.tree}"

    @property
    def digests(self) -> Mapping[str, str]:
        """What is known of its content, by algorithm."""
        return {"sha256": self.sha256, "blake3": self.digest}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The source itself is its only output."""
        return _ONLY_OUTPUT

    @property
    def label(self) -> Label:
        """Sources are the same everywhere."""
        return REPRODUCIBLE


@dataclass(frozen=True, slots=True)
class Download:
    """A source whose BLAKE3 is not known yet, only the SHA-256 that its project publishes. `size` in bytes.

    Forge learns its tree only by fetching it, so a graph has it as the derivation that `downloading` makes. The action
    keys of what is built from it stay the same when the file is pinned as a Source later.
    """

    name: str
    locator: str
    sha256: Sha256
    size: int
    executable: bool = False
    mirrors: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The id of the source within a graph."""
        return f"source:sha256:{self.sha256}"

    @property
    def digests(self) -> Mapping[str, str]:
        """What is known of its content, by algorithm."""
        return {"sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Files of the workspace (patches, our own linker), which forge hashes when it instantiates the recipe."""

    name: str
    path: str
    tree: TreeId

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def id(self) -> str:
        """The id of the files within a graph."""
        return f"source:{self.tree}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files themselves are the only output."""
        return _ONLY_OUTPUT

    @property
    def label(self) -> Label:
        """Workspace files are part of the build's description, not of the host."""
        return REPRODUCIBLE


@dataclass(frozen=True, slots=True)
class Input:
    """One edge of the graph: an output of a node, and its absolute path `at` in the sandbox.

    `at` is `/forge/<input name>` unless a recipe has a reason for another path.
    """

    node: Node
    output: str
    at: str


# eq=False: comparing fields would walk the whole graph below a derivation. Compare ids instead.
@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """One build step. Callers may assume that names are valid and that the label covers all inputs.

    The fields from `limits` on are no part of the identity:

        parallel            the builder can use several cores; FORGE_JOBS gives it the number, on which a
                            reproducible build must not depend
        allowed_leaks       host references that the outputs may contain: kind → reason
        components          the components of its sources
        contents            input name → the components (or ALL) that are in the outputs; None if the recipe is silent
        systems             the systems on which the outputs run
        check_exemptions    aspects that `forge check` does not vary: aspect → reason
        download            the file to fetch, if the derivation is a download
    """

    name: str
    builder: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...] = _ONLY_OUTPUT
    system: str = "x86_64-linux"
    label: Label = REPRODUCIBLE
    limits: Limits = Limits()
    parallel: bool = False
    allowed_leaks: Mapping[str, str] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    contents: Mapping[str, tuple[str, ...]] | None = None
    systems: tuple[str, ...] = ()
    check_exemptions: Mapping[Aspect, str] = field(default_factory=dict)
    download: Download | None = None
    id: DerivationId = field(init=False)

    def __post_init__(self) -> None:
        _check_derivation(self)
        label = self.label.joined([edge.node.label for edge in self.inputs.values()])
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "id", DerivationId(blake3_hex(self.encode())))

    @property
    def is_builtin(self) -> bool:
        """Whether forge runs the builder itself."""
        return self.builder.startswith(BUILTIN)

    def encode(self) -> bytes:
        """The canonical bytes of the derivation; its id is their BLAKE3."""
        return self._document({name: _reference(edge) for name, edge in self.inputs.items()})

    def preimage(self, trees: Mapping[str, TreeId]) -> bytes:
        """The preimage of the action key. `trees` has the tree that each input was built to, by input name."""
        return self._document({name: _tree(edge, trees[name]) for name, edge in self.inputs.items()})

    def _document(self, inputs: Mapping[str, str]) -> bytes:
        """The canonical bytes of the derivation. `inputs` has the canonical text that stands for each input."""
        return canonical.to_bytes(
            _DOCUMENT
            % (
                text(self.args),
                text(self.builder),
                text(self.env),
                canonical.object_of(inputs),
                self.label.canonical_text,
                text(self.name),
                text(self.outputs),
                SCHEMA,
                text(self.system),
            )
        )


Node = Source | LocalSource | Derivation


def downloading(wanted: Download) -> Derivation:
    """The derivation whose output is this file. Locator and mirrors are no part of its identity."""
    content: dict[str, canonical.Json] = {"sha256": wanted.sha256, "size": wanted.size}
    if wanted.executable:
        content["executable"] = True
    return Derivation(wanted.name, DOWNLOAD, (canonical.encode(content).decode(),), {}, {}, download=wanted)


def fetched_file(node: Node) -> Source | Download | None:
    """The Source or Download that the node stands for; None for other nodes."""
    if isinstance(node, Derivation):
        return node.download
    return node if isinstance(node, Source) else None


def action_key(preimage: bytes) -> ActionKey:
    """The action key of a preimage."""
    return ActionKey(blake3_hex(preimage))


def _reference(edge: Input) -> str:
    if isinstance(edge.node, Derivation):
        return _DERIVATION_OUTPUT % (text(edge.at), text(edge.node.id), text(edge.output))
    return _tree(edge, edge.node.tree)


def _tree(edge: Input, tree: TreeId) -> str:
    return _TREE % (text(edge.at), text(tree))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DerivationError(f"describe {name!r}: it is not a valid name", reason="derivation-bad-name")


def _check_derivation(derivation: Derivation) -> None:
    _check_name(derivation.name)
    if derivation.outputs != _ONLY_OUTPUT:
        _check_outputs(derivation)
    for variable, value in derivation.env.items():
        if not _VARIABLE.fullmatch(variable) or "\0" in value:
            raise DerivationError(
                f"describe {derivation.name}: {variable!r} is not a valid environment variable, or its value has a NUL",
                reason="derivation-bad-env",
            )
    for name, edge in derivation.inputs.items():
        # One cheap test for the usual edge; _check_input tests the others part by part.
        if _INPUT.fullmatch(name) is None or edge.at != f"/forge/{name}" or edge.output not in edge.node.outputs:
            _check_input(derivation.name, name, edge)


def _check_outputs(derivation: Derivation) -> None:
    if not derivation.outputs or len(set(derivation.outputs)) != len(derivation.outputs):
        raise DerivationError(
            f"describe {derivation.name}: it needs at least one output, and no name may occur twice",
            reason="derivation-bad-output",
        )
    for output in derivation.outputs:
        if not _OUTPUT.fullmatch(output):
            raise DerivationError(
                f"describe {derivation.name}: {output!r} is not a valid output name", reason="derivation-bad-output"
            )


def _check_input(owner: str, name: str, edge: Input) -> None:
    if not _INPUT.fullmatch(name):
        raise DerivationError(f"describe {owner}: {name!r} is not a valid input name", reason="derivation-bad-input")
    if not edge.at.startswith("/") or ".." in edge.at.split("/"):
        raise DerivationError(
            f"describe {owner}: the path {edge.at!r} of input {name} is not absolute, or has a part '..'",
            reason="derivation-bad-input",
        )
    if edge.output not in edge.node.outputs:
        raise DerivationError(
            f"describe {owner}: {edge.node.name} has no output {edge.output!r}; it has {', '.join(edge.node.outputs)}",
            reason="derivation-no-such-output",
        )
