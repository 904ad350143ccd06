"""The order to package: what goes with which program, built in Python or parsed from JSON.

    {"program": "/forge/program", "name": "hello",
     "models": [{"name": "tiny.gguf", "path": "/forge/model"}],
     "args": {"name": "my-args", "path": "/forge/args"},
     "page": "chat",
     "files": [{"name": "notes/readme.txt", "path": "readme.txt"}]}

Relative paths are relative to the file that holds the order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmojo_forge.ape.errors import ApeError, ApeReason

_FILES = ("mmproj", "args")
_PATHS = ("cert", "key", "ui")
_LISTS = ("models", "files", "modules")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file, or where folders are allowed a folder, and what it is called in the package."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class PackageOrder:
    """What is wanted. `page` names a page that the program has, `ui` is a folder to be packaged as one; `name` is what
    the server is called, empty for what it was called before. `modules` are folders, each called like the module.
    Files in `remove` are left out of what the program has. `clear` drops the arguments that it has, and new `args`
    take their place anyway.
    """

    program: Path
    name: str = ""
    models: tuple[NamedFile, ...] = ()
    mmproj: NamedFile | None = None
    args: NamedFile | None = None
    clear: bool = False
    page: str = ""
    ui: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    files: tuple[NamedFile, ...] = ()
    modules: tuple[NamedFile, ...] = ()
    remove: tuple[str, ...] = ()


def read_order(path: Path) -> PackageOrder:
    """The order that the JSON file at `path` holds; raises ApeError (`ape-spec`, `ape-input`)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ApeError(f"package order {path}: {error.strerror}", reason=ApeReason.INPUT) from error
    except ValueError as error:
        raise ApeError(f"package order {path}: not JSON: {error}", reason=ApeReason.SPEC) from error
    try:
        return _parse(data, path.parent)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ApeError(f"package order {path}: not an order: {error!r}", reason=ApeReason.SPEC) from error


def _parse(data: Mapping[str, Any], base: Path) -> PackageOrder:
    rest = dict(data)
    fields: dict[str, Any] = {"program": base / rest.pop("program")}
    for name in _LISTS:
        fields[name] = tuple(_named(row, base) for row in rest.pop(name, []))
    for name in _FILES:
        row = rest.pop(name, None)
        fields[name] = _named(row, base) if row else None
    for name in _PATHS:
        path = rest.pop(name, None)
        fields[name] = base / path if path else None
    for name in ("name", "page"):
        fields[name] = str(rest.pop(name, ""))
    fields["remove"] = tuple(str(pattern) for pattern in rest.pop("remove", []))
    if rest:
        raise ValueError(f"unknown fields: {', '.join(sorted(rest))}")
    return PackageOrder(**fields)


def _named(row: Mapping[str, str], base: Path) -> NamedFile:
    return NamedFile(str(row["name"]), base / row["path"])
