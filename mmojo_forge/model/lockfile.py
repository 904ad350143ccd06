"""`forge.lock` and `forge.outputs`: every pin, and every output that is expected, in files that two people can merge.

One TOML table (or line) per entry, sorted by name, no global checksum, nothing of the machine that wrote it:

    forge.lock
    schema = 1
    [source."zig-0.15.2.whl"]             one fixed source
    [userland."base"]                     what a Debian userland was asked to hold
    [userland."base".package."bash"]      one package of its closure
    [npm."llama-ui"]                      what a node_modules was asked to hold, and a line for each package

    forge.outputs
    schema = 1
    [output."mmojo-server.ape"]           the tree a reproducible target is expected to give, for one derivation

An output is a table and not a line: git merges changes of two people only if an unchanged line lies between them, and
here that is the header. Until forge.outputs existed, its tables stood in forge.lock, where they are still read.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import BlobDigest, DerivationId, Sha256, TreeId
from mmojo_forge.model.node_modules import NodeModules, NpmPackage

SCHEMA = 1
LOCK_NAME = "forge.lock"
OUTPUTS_NAME = "forge.outputs"
HEADER = "# Written by `forge lock`; edit recipes, not this file.\n"
OUTPUTS_HEADER = "# Written by `forge lock --outputs` from what was built; do not edit.\n"


class LockError(ForgeError):
    """A lock file that is missing, malformed, of a foreign schema, or without a pin that is asked for."""


class LockConflict(LockError):
    """A file with the conflict markers of a merge. `changed` are the entries that both sides have, and differently;
    `added` are those that only one side has. Both are empty where a side is not TOML by itself."""

    def __init__(self, origin: str, changed: Iterable[str], added: Iterable[str], command: str) -> None:
        self.changed = tuple(sorted(changed))
        self.added = tuple(sorted(added))
        advice = [
            f"Both sides changed {', '.join(self.changed)}: keep either side's lines, whole." if self.changed else "",
            f"Only one side has {', '.join(self.added)}: keep it." if self.added else "",
            "" if self.changed or self.added else "Keep either side's lines of each table, whole.",
            f"Remove the markers, then run `{command}`.",
        ]
        super().__init__(
            f"read {origin}: it has the conflict markers of a merge",
            detail="\n".join(line for line in advice if line),
            reason="lock-conflict",
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """One fixed source: where it was found and what exactly it is. `size` in bytes; `licence` as the index has it.

    `blake3` is empty where a recipe gave the SHA-256 and nobody who wrote the lock has had the file yet.
    """

    name: str
    locator: str
    sha256: Sha256
    blake3: BlobDigest
    size: int
    mirrors: tuple[str, ...] = ()
    version: str = ""
    licence: str = ""

    @property
    def measured(self) -> bool:
        """Whether its BLAKE3 is known, and so its tree."""
        return self.blake3 != ""


@dataclass(frozen=True, slots=True)
class Userland:
    """The closure of a Debian userland: what was asked for, and each package it came to, by name."""

    name: str
    suite: str
    architecture: str
    packages: tuple[str, ...]
    closure: Mapping[str, Pin]


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What a reproducible target is expected to be built to, as long as its derivation is this one."""

    target: str
    derivation: DerivationId
    tree: TreeId


@dataclass(frozen=True, slots=True)
class Lock:
    """All pins by name. Empty where nothing was locked yet.

    `outputs` are those that a forge.lock from before forge.outputs expects. They are read, and never dumped.
    """

    sources: Mapping[str, Pin] = field(default_factory=dict)
    userlands: Mapping[str, Userland] = field(default_factory=dict)
    npm: Mapping[str, NodeModules] = field(default_factory=dict)
    outputs: Mapping[str, ExpectedOutput] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, origin: str = LOCK_NAME) -> Lock:
        """The lock that `text` holds; raises LockError (`lock-malformed`, `lock-schema`, `lock-conflict`)."""
        document = _load(text, origin, _Document, "forge lock")
        return cls(
            sources={name: _pin(name, row) for name, row in document.source.items()},
            userlands={name: _userland(name, row) for name, row in document.userland.items()},
            npm={name: _node_modules(name, row) for name, row in document.npm.items()},
            outputs=_outputs(document.output),
        )

    def pins(self) -> Iterator[Pin]:
        """Every pin: sources, packages of userlands, npm tarballs. Raises NodeModulesError (`lock-malformed`)."""
        yield from self.sources.values()
        for userland in self.userlands.values():
            yield from userland.closure.values()
        for closure in self.npm.values():
            yield from map(_npm_pin, closure.packages())

    def dump(self) -> str:
        """The text of forge.lock: sorted, one table per pin."""
        document: dict[str, Any] = {"schema": SCHEMA}
        if self.sources:
            document["source"] = {name: _pin_row(self.sources[name]) for name in sorted(self.sources)}
        if self.userlands:
            document["userland"] = {name: _userland_row(self.userlands[name]) for name in sorted(self.userlands)}
        parts = [document, *(_npm_document(self.npm[name]) for name in sorted(self.npm))]
        text = [tomli_w.dumps(part, multiline_strings=False) for part in parts]
        for position, name in enumerate(sorted(self.npm), start=1):
            # Written here, as the one string that has to be literal and of several lines.
            text[position] += f"packages = '''\n{self.npm[name].lines}'''\n"
        return HEADER + "\n".join(text)


def parse_outputs(text: str, *, origin: str = OUTPUTS_NAME) -> dict[str, ExpectedOutput]:
    """The outputs that `text` expects, by target; raises LockError (`lock-malformed`, `lock-schema`,
    `lock-conflict`)."""
    return _outputs(_load(text, origin, _OutputsDocument, "forge lock --outputs TARGET").output)


def dump_outputs(outputs: Mapping[str, ExpectedOutput]) -> str:
    """The text of forge.outputs: sorted, one table per target."""
    rows = {name: {"derivation": outputs[name].derivation, "tree": outputs[name].tree} for name in sorted(outputs)}
    return OUTPUTS_HEADER + tomli_w.dumps({"schema": SCHEMA, **({"output": rows} if rows else {})})


_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PinRow(_Row):
    locator: str
    sha256: _Hex
    blake3: _Hex | None = None
    size: Annotated[int, Field(ge=0)]
    mirrors: tuple[str, ...] = ()
    version: str = ""
    licence: str = ""


class _UserlandRow(_Row):
    suite: str
    architecture: str
    packages: tuple[str, ...]
    package: dict[str, _PinRow] = {}


class _NpmRow(_Row):
    source: str
    path: str = ""
    tree: _Hex
    exclude: tuple[str, ...] = ()
    packages: str


class _OutputRow(_Row):
    derivation: _Hex
    tree: _Hex


class _OutputsDocument(_Row):
    lock_schema: Annotated[int, Field(alias="schema")]
    output: dict[str, _OutputRow] = {}


class _Document(_OutputsDocument):
    source: dict[str, _PinRow] = {}
    userland: dict[str, _UserlandRow] = {}
    npm: dict[str, _NpmRow] = {}


_DocumentType = TypeVar("_DocumentType", bound=_OutputsDocument)


def _load(text: str, origin: str, kind: type[_DocumentType], command: str) -> _DocumentType:
    """The document in `text`; `command` is how the user writes the file anew."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(text, origin, command, error) from error
    if raw.get("schema") != SCHEMA:
        raise LockError(
            f"read {origin}: schema {raw.get('schema')!r} is not {SCHEMA}",
            detail=f"It was written by another version of forge: use that version, or write it anew with `{command}`.",
            reason="lock-schema",
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LockError(
            f"read {origin}: {place}: {first['msg']}",
            detail=f"Restore the file from version control, or write it anew with `{command}`.",
            reason="lock-malformed",
        ) from error


_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})( .*)?")
"""A line that git puts around what two sides changed. The second one comes before what neither has any more."""


def _not_toml(text: str, origin: str, command: str, error: tomllib.TOMLDecodeError) -> LockError:
    if any(_MARKER.fullmatch(line) for line in text.splitlines()):
        ours, theirs = map(_entries, _sides(text))
        changed = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
        return LockConflict(origin, changed, ours.keys() ^ theirs.keys(), command)
    headers = Counter(line for line in text.splitlines() if line.startswith("["))
    twice = ", ".join(header for header, count in headers.items() if count > 1)
    return LockError(
        f"read {origin}: not TOML: {error}",
        detail=f"{twice} is there twice, after a merge? Keep either one, then run `{command}`."
        if twice
        else f"After a merge, keep one side's lines of each table, whole. Then run `{command}`.",
        reason="lock-malformed",
    )


def _sides(text: str) -> tuple[str, str]:
    """The text as either side of the merge has it."""
    ours: list[str] = []
    theirs: list[str] = []
    into: tuple[list[str], ...] = (ours, theirs)
    for line in text.splitlines():
        if _MARKER.fullmatch(line):
            into = {"<": (ours,), "|": (), "=": (theirs,)}.get(line[0], (ours, theirs))
        else:
            for side in into:
                side.append(line)
    return "\n".join(ours), "\n".join(theirs)


def _entries(text: str) -> dict[str, object]:
    """What stands in each table, by what the table is of; nothing where the text is not TOML."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    found: dict[str, object] = {}
    for kind, tables in raw.items():
        for name, table in tables.items() if isinstance(tables, dict) else ():
            packages = table.pop("package", {}) if isinstance(table, dict) else {}
            found[f"{kind} {name}"] = table
            found.update({f"{kind} {name} package {package}": row for package, row in packages.items()})
    return found


def _outputs(rows: Mapping[str, _OutputRow]) -> dict[str, ExpectedOutput]:
    return {name: ExpectedOutput(name, DerivationId(row.derivation), TreeId(row.tree)) for name, row in rows.items()}


def _pin(name: str, row: _PinRow) -> Pin:
    digest = BlobDigest(row.blake3 or "")
    return Pin(name, row.locator, Sha256(row.sha256), digest, row.size, row.mirrors, row.version, row.licence)


def _userland(name: str, row: _UserlandRow) -> Userland:
    closure = {package: _pin(package, pin) for package, pin in row.package.items()}
    return Userland(name, row.suite, row.architecture, row.packages, closure)


def _node_modules(name: str, row: _NpmRow) -> NodeModules:
    return NodeModules(name, row.source, row.path, TreeId(row.tree), row.exclude, row.packages)


def _npm_pin(package: NpmPackage) -> Pin:
    return Pin(
        package.source_name,
        package.locator,
        package.sha256,
        package.blake3,
        package.size,
        version=package.version,
        licence=package.licence,
    )


def _pin_row(pin: Pin) -> dict[str, Any]:
    row: dict[str, Any] = {"locator": pin.locator, "sha256": pin.sha256}
    if pin.measured:
        row["blake3"] = pin.blake3
    row["size"] = pin.size
    if pin.mirrors:
        row["mirrors"] = list(pin.mirrors)
    if pin.version:
        row["version"] = pin.version
    if pin.licence:
        row["licence"] = pin.licence
    return row


def _userland_row(userland: Userland) -> dict[str, Any]:
    return {
        "suite": userland.suite,
        "architecture": userland.architecture,
        "packages": list(userland.packages),
        "package": {name: _pin_row(userland.closure[name]) for name in sorted(userland.closure)},
    }


def _npm_document(one: NodeModules) -> dict[str, Any]:
    row: dict[str, Any] = {"source": one.source}
    if one.path:
        row["path"] = one.path
    row["tree"] = one.tree
    if one.exclude:
        row["exclude"] = list(one.exclude)
    return {"npm": {one.name: row}}
