"""Derivations and sources: the build graph as immutable data.

A derivation names its inputs by reference to other derivations; its id (known before anything is built) hashes
that graph. Its *action key* hashes the same document with every input replaced by the tree it was built to, so a
toolchain that is rebuilt to the same bytes changes no key above it.
Both are BLAKE3 over canonical JSON, and the documents are kept: explanations walk the very bytes that were hashed.

Labels: whether an output may be expected bit for bit on any machine, or why not.

Limits: the bounds within which one build may run.

What `forge check` varies, by name: recipes speak of it, and reports do.

Components: what recipes say that things are made of, for bills of materials. No part of any identity.
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
    """`reproducible` when there are no facts; else `host-specific`, with the host facts that were used.

    It spreads upwards: whatever has a host-specific input is host-specific with the same facts.
    """

    facts: tuple[tuple[str, str], ...] = ()
    canonical_text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Made once: one label stands in the preimages of very many derivations.
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
        """The label as it stands in preimages, and as commands show it."""
        return {"facts": dict(self.facts), "reproducible": self.reproducible}


REPRODUCIBLE = Label()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one build. No part of the identity: more patience does not change what is built."""

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


# What changes with the place of the rebuild, which is always another one.
INHERENT = frozenset({Aspect.TIME, Aspect.BUILD_PATH, Aspect.STORE_PATH, Aspect.FILE_SYSTEM})


ALL = ("*",)
"""In the contents of a build: an input is in the result with all that it is made of."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A licence text that lies in a source: a file, or its lines from one that has `begin` to one that has `end`."""

    path: str
    begin: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One piece of software that a source brings: the source itself if no version is given, else a part of it.

    `licence` is an SPDX expression; `purl` a package URL, where the pin of the source has none or a wrong one; `cpe`
    is VENDOR:PRODUCT in the national vulnerability database. `notices` are the texts that must be passed on, as paths
    in the unpacked tree. `of` names the source, or the input it is, where there are several. `redistributable` says
    whether its licence lets everybody pass it on, where that is not what its name makes one think.
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
"""Prefix of builders that forge itself runs, outside any sandbox, on data that it treats as hostile."""
DOWNLOAD = f"{BUILTIN}download"
"""The builder of sources of which only the SHA-256 is known."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_INPUT = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,99}")
_OUTPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_ONLY_OUTPUT = ("out",)
_DOCUMENT = canonical.template("args", "builder", "env", "inputs", "label", "name", "outputs", "schema", "system")
_TREE = canonical.template("at", "tree")
_DERIVATION_OUTPUT = canonical.template("at", "derivation", "output")


class DerivationError(ForgeError):
    """A build step that cannot be described: a bad name, a variable that the sandbox owns, no output."""


@dataclass(frozen=True, slots=True)
class Source:
    """A fixed-output derivation: one file whose content is known beforehand. Only these touch the network.

    The locator says where to look; it is no part of the identity, so a mirror may change without a rebuild.
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
        """What identifies the source within a graph."""
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
    """A source of which nobody here knows the BLAKE3 yet, but the SHA-256 that its project publishes.

    Which tree it is, is known only to who has had it: in a graph it stands as the derivation that `downloading` makes.
    What is built from it has the same action key as it has from the Source that the file is pinned to in the end.
    """

    name: str
    locator: str
    sha256: Sha256
    size: int
    executable: bool = False
    mirrors: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What tells it from other sources."""
        return f"source:sha256:{self.sha256}"

    @property
    def digests(self) -> Mapping[str, str]:
        """What is known of its content, by algorithm."""
        return {"sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Files of the workspace (patches, our own linker), hashed when the recipe is instantiated."""

    name: str
    path: str
    tree: TreeId

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def id(self) -> str:
        """What identifies the files within a graph."""
        return f"source:{self.tree}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files themselves are the only output."""
        return _ONLY_OUTPUT

    @property
    def label(self) -> Label:
        """Workspace files are part of what is described, not of the host."""
        return REPRODUCIBLE


@dataclass(frozen=True, slots=True)
class Input:
    """One edge of the graph: which output of which node, and where the sandbox shows it.

    `at` is an absolute path in the sandbox; `/forge/<input name>` unless a recipe has a reason.
    """

    node: Node
    output: str
    at: str


@dataclass(frozen=True, slots=True, eq=False)
class Derivation:
    """One build step. Callers may assume that names are valid and that the label covers all inputs.

    `parallel` says that the builder can use several cores (it is told how many in FORGE_JOBS, which, like the
    limits, is no part of the identity: a reproducible build must not depend on it). `allowed_leaks` says, by kind and
    with the reason, what its outputs may tell of the machine; that is no part of the identity either. Nor is what
    bills of materials are made from: `components` are what its sources consist of, `contents` says by input name which
    of them (or ALL) are in the outputs; None if nobody said. Nor are `systems`, on which the outputs run, and
    `check_exemptions`, the aspects that `forge check` leaves as they are, with the reason. `download` is the file that
    it is, if it is one.
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
        """Whether forge itself is the builder."""
        return self.builder.startswith(BUILTIN)

    def encode(self) -> bytes:
        """The canonical bytes of the derivation; its id is their BLAKE3."""
        return self._document({name: _reference(edge) for name, edge in self.inputs.items()})

    def preimage(self, trees: Mapping[str, TreeId]) -> bytes:
        """The action key's preimage, given the tree each input was built to, by input name."""
        return self._document({name: _tree(edge, trees[name]) for name, edge in self.inputs.items()})

    def _document(self, inputs: Mapping[str, str]) -> bytes:
        """The derivation in canonical bytes, given the canonical text of what stands for each input."""
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
    """The derivation whose output is this file. Where it is looked for is no part of its identity."""
    content: dict[str, canonical.Json] = {"sha256": wanted.sha256, "size": wanted.size}
    if wanted.executable:
        content["executable"] = True
    return Derivation(wanted.name, DOWNLOAD, (canonical.encode(content).decode(),), {}, {}, download=wanted)


def fetched_file(node: Node) -> Source | Download | None:
    """The file of others that the node is, if it is one."""
    if isinstance(node, Derivation):
        return node.download
    return node if isinstance(node, Source) else None


def action_key(preimage: bytes) -> ActionKey:
    """The key under which a build trace is kept."""
    return ActionKey(blake3_hex(preimage))


def _reference(edge: Input) -> str:
    if isinstance(edge.node, Derivation):
        return _DERIVATION_OUTPUT % (text(edge.at), text(edge.node.id), text(edge.output))
    return _tree(edge, edge.node.tree)


def _tree(edge: Input, tree: TreeId) -> str:
    return _TREE % (text(edge.at), text(tree))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DerivationError(f"describe {name!r}: not a valid name", reason="derivation-bad-name")


def _check_derivation(derivation: Derivation) -> None:
    _check_name(derivation.name)
    if derivation.outputs != _ONLY_OUTPUT:
        _check_outputs(derivation)
    for variable, value in derivation.env.items():
        if not _VARIABLE.fullmatch(variable) or "\0" in value:
            raise DerivationError(
                f"describe {derivation.name}: {variable!r} is no environment variable",
                reason="derivation-bad-env",
            )
    for name, edge in derivation.inputs.items():
        if _INPUT.fullmatch(name) is None or edge.at != f"/forge/{name}" or edge.output not in edge.node.outputs:
            _check_input(derivation.name, name, edge)


def _check_outputs(derivation: Derivation) -> None:
    if not derivation.outputs or len(set(derivation.outputs)) != len(derivation.outputs):
        raise DerivationError(
            f"describe {derivation.name}: outputs must be one or more, each named once",
            reason="derivation-bad-output",
        )
    for output in derivation.outputs:
        if not _OUTPUT.fullmatch(output):
            raise DerivationError(
                f"describe {derivation.name}: {output!r} is no output name", reason="derivation-bad-output"
            )


def _check_input(owner: str, name: str, edge: Input) -> None:
    if not _INPUT.fullmatch(name):
        raise DerivationError(f"describe {owner}: {name!r} is no input name", reason="derivation-bad-input")
    if not edge.at.startswith("/") or ".." in edge.at.split("/"):
        raise DerivationError(
            f"describe {owner}: input {name} cannot be shown at {edge.at!r}", reason="derivation-bad-input"
        )
    if edge.output not in edge.node.outputs:
        raise DerivationError(
            f"describe {owner}: {edge.node.name} has no output {edge.output!r}, only {', '.join(edge.node.outputs)}",
            reason="derivation-no-such-output",
        )
