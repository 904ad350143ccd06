"""`forge.lock` and `forge.outputs`: all pins and all expected outputs, in files that git can merge.

Each entry is one TOML table (or line), sorted by name. The files have no global checksum, and nothing in them depends
on the machine that wrote them:

    forge.lock
    schema = 1
    [source."zig-0.15.2.whl"]             one fixed source
    [userland."base"]                     a Debian userland: the requested packages
    [userland."base".package."bash"]      one package of its closure
    [npm."llama-ui"]                      a node_modules: its package-lock.json, and a line for each package

    forge.outputs
    schema = 1
    [output."mmojo-server.ape"]           the expected tree of a reproducible target, for one derivation

An expected output is a table, not a line: git merges the changes of two people only if an unchanged line lies between
them, and the header is that line. Older versions wrote these tables to forge.lock; forge still reads them there.
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
    """A lock file is missing or malformed, has another schema, or lacks a requested pin."""


class LockConflict(LockError):
    """A lock file has the conflict markers of a merge.

    `changed` are the entries that differ between the sides; `added` are those that only one side has. Both are empty
    if a side is not valid TOML by itself.
    """

    def __init__(self, origin: str, changed: Iterable[str], added: Iterable[str], command: str) -> None:
        self.changed = tuple(sorted(changed))
        self.added = tuple(sorted(added))
        advice = [
            f"Both sides changed {', '.join(self.changed)}: keep all lines of one side." if self.changed else "",
            f"Only one side has {', '.join(self.added)}: keep it." if self.added else "",
            "" if self.changed or self.added else "For each table, keep all lines of one side.",
            f"Remove the markers, then run `{command}`.",
        ]
        super().__init__(
            f"read {origin}: the file has conflict markers from a merge",
            detail="\n".join(line for line in advice if line),
            reason="lock-conflict",
        )


@dataclass(frozen=True, slots=True)
class Pin:
    """One fixed source: its locator, digests and size in bytes. `licence` is what the package index says.

    `blake3` is empty if the recipe gave the SHA-256 and forge has not fetched the file yet.
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
        """Whether the BLAKE3 of the file, and so its tree, is known."""
        return self.blake3 != ""


@dataclass(frozen=True, slots=True)
class Userland:
    """The closure of a Debian userland: the requested packages, and a pin for each package they need, by name."""

    name: str
    suite: str
    architecture: str
    packages: tuple[str, ...]
    closure: Mapping[str, Pin]


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """The tree that a reproducible target must be built to, while it has this derivation."""

    target: str
    derivation: DerivationId
    tree: TreeId


@dataclass(frozen=True, slots=True)
class Lock:
    """All pins by name. Empty if nothing is locked yet.

    `outputs` are the expected outputs in a forge.lock of an older version. `dump` does not write them.
    """

    sources: Mapping[str, Pin] = field(default_factory=dict)
    userlands: Mapping[str, Userland] = field(default_factory=dict)
    npm: Mapping[str, NodeModules] = field(default_factory=dict)
    outputs: Mapping[str, ExpectedOutput] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, origin: str = LOCK_NAME) -> Lock:
        """The lock in `text`; raises LockError (`lock-malformed`, `lock-schema`, `lock-conflict`)."""
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
            # tomli_w cannot write a literal multi-line string, which keeps each package on a line that git can merge.
            text[position] += f"packages = '''\n{self.npm[name].lines}'''\n"
        return HEADER + "\n".join(text)


def parse_outputs(text: str, *, origin: str = OUTPUTS_NAME) -> dict[str, ExpectedOutput]:
    """The expected outputs in `text`, by target.

    Raises LockError (`lock-malformed`, `lock-schema`, `lock-conflict`).
    """
    return _outputs(_load(text, origin, _OutputsDocument, "forge lock --outputs TARGET").output)


def dump_outputs(outputs: Mapping[str, ExpectedOutput]) -> str:
    """The text of forge.outputs: sorted, one table per target."""
    rows = {name: {"derivation": outputs[name].derivation, "tree": outputs[name].tree} for name in sorted(outputs)}
    return OUTPUTS_HEADER + tomli_w.dumps({"schema": SCHEMA, **({"output": rows} if rows else {})})


_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


# Unknown keys are errors: forge would drop them when it writes the file again.
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
    """The document in `text`; `command` is the command that writes the file again, for messages."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(text, origin, command, error) from error
    if raw.get("schema") != SCHEMA:
        raise LockError(
            f"read {origin}: it has schema {raw.get('schema')!r}, but this version of forge reads schema {SCHEMA}",
            detail=f"Another version of forge wrote it. Use that version, or write the file again with `{command}`.",
            reason="lock-schema",
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LockError(
            f"read {origin}: {place}: {first['msg']}",
            detail=f"Restore the file from version control, or write it again with `{command}`.",
            reason="lock-malformed",
        ) from error


_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})( .*)?")
"""The marker lines that git puts around a conflict: ours, base (with diff3), theirs, end."""


def _not_toml(text: str, origin: str, command: str, error: tomllib.TOMLDecodeError) -> LockError:
    if any(_MARKER.fullmatch(line) for line in text.splitlines()):
        ours, theirs = map(_entries, _sides(text))
        changed = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
        return LockConflict(origin, changed, ours.keys() ^ theirs.keys(), command)
    headers = Counter(line for line in text.splitlines() if line.startswith("["))
    twice = ", ".join(header for header, count in headers.items() if count > 1)
    return LockError(
        f"read {origin}: it is not valid TOML: {error}",
        detail=f"{twice} occurs twice, perhaps after a merge. Keep one of the two, then run `{command}`."
        if twice
        else f"After a merge, keep all lines of one side for each table. Then run `{command}`.",
        reason="lock-malformed",
    )


def _sides(text: str) -> tuple[str, str]:
    """The text of each side of the merge: ours and theirs."""
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
    """The content of each table, by its kind and name; empty if the text is not TOML."""
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


def _npm_document(closure: NodeModules) -> dict[str, Any]:
    row: dict[str, Any] = {"source": closure.source}
    if closure.path:
        row["path"] = closure.path
    row["tree"] = closure.tree
    if closure.exclude:
        row["exclude"] = list(closure.exclude)
    return {"npm": {closure.name: row}}
