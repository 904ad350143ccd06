"""`forge.lock`: every pin, in one generated file that two people can merge.

One TOML table (or line) per pin, sorted by name, no global checksum, nothing of the machine that wrote it:

    schema = 1
    [source."zig-0.15.2.whl"]             one fixed source
    [userland."base"]                     what a Debian userland was asked to hold
    [userland."base".package."bash"]      one package of its closure
    [npm."llama-ui"]                      what a node_modules was asked to hold, and a line for each package
    [output."mmojo-server.ape"]           the tree a reproducible target is expected to give, for one derivation
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import BlobDigest, DerivationId, Sha256, TreeId
from mmojo_forge.model.node_modules import NodeModules, NpmPackage

SCHEMA = 1
HEADER = "# Written by `forge lock`; edit recipes, not this file.\n"


class LockError(ForgeError):
    """A lock file that is missing, malformed, of a foreign schema, or without a pin that is asked for."""


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
    """All pins by name. Empty where nothing was locked yet."""

    sources: Mapping[str, Pin] = field(default_factory=dict)
    userlands: Mapping[str, Userland] = field(default_factory=dict)
    outputs: Mapping[str, ExpectedOutput] = field(default_factory=dict)
    npm: Mapping[str, NodeModules] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, origin: str = "forge.lock") -> Lock:
        """The lock that `text` holds; raises LockError (`lock-malformed`, `lock-schema`)."""
        document = _load(text, origin)
        return cls(
            sources={name: _pin(name, row) for name, row in document.source.items()},
            userlands={name: _userland(name, row) for name, row in document.userland.items()},
            outputs={
                name: ExpectedOutput(name, DerivationId(row.derivation), TreeId(row.tree))
                for name, row in document.output.items()
            },
            npm={name: _node_modules(name, row) for name, row in document.npm.items()},
        )

    def pins(self) -> Iterator[Pin]:
        """Every pin: sources, packages of userlands, npm tarballs. Raises NodeModulesError (`lock-malformed`)."""
        yield from self.sources.values()
        for userland in self.userlands.values():
            yield from userland.closure.values()
        for closure in self.npm.values():
            yield from map(_npm_pin, closure.packages())

    def dump(self) -> str:
        """The text of the file: sorted, one table per pin."""
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
        if self.outputs:
            rows = {
                name: {"derivation": self.outputs[name].derivation, "tree": self.outputs[name].tree}
                for name in sorted(self.outputs)
            }
            text.append(tomli_w.dumps({"output": rows}, multiline_strings=False))
        return HEADER + "\n".join(text)


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


class _Document(_Row):
    lock_schema: Annotated[int, Field(alias="schema")]
    source: dict[str, _PinRow] = {}
    userland: dict[str, _UserlandRow] = {}
    npm: dict[str, _NpmRow] = {}
    output: dict[str, _OutputRow] = {}


def _load(text: str, origin: str) -> _Document:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockError(
            f"read {origin}: not TOML: {error}",
            detail="A merge conflict? Keep both sides' tables and run `forge lock --check`.",
            reason="lock-malformed",
        ) from error
    if raw.get("schema") != SCHEMA:
        raise LockError(
            f"read {origin}: schema {raw.get('schema')!r} is not {SCHEMA}",
            detail="It was written by another version of forge: use that version, or write it anew with `forge lock`.",
            reason="lock-schema",
        )
    try:
        return _Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LockError(
            f"read {origin}: {place}: {first['msg']}",
            detail="The file is written by `forge lock` only; restore it from version control or write it anew.",
            reason="lock-malformed",
        ) from error


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
