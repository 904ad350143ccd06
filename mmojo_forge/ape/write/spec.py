"""The order to make one APE: its slices, launchers and assets, parsed from JSON or built in Python.

    {"program": "hello",
     "slices": [{"system": "linux-x86_64", "level": "v3", "features": ["avx2", "fma"], "path": "v3/hello"},
                {"system": "linux-x86_64", "level": "v2", "path": "v2/hello"}],
     "launchers": {"linux-x86_64": "linux-x86_64.elf", "windows-x86_64": "windows-x86_64.exe"},
     "assets": [{"name": "web/index.html", "path": "index.html"},
                {"name": "model.gguf", "path": "model.gguf", "mapped": true}]}

Slices of one system stand in order of preference: the first whose features the machine has is started.
Relative paths are relative to the file that holds the order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format import slice_table as cpu_features
from mmojo_forge.ape.format.slice_table import MAX_SLICES
from mmojo_forge.ape.format.zip_directory import check_path

SYSTEMS: Final = frozenset({"linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-x86_64", "macos-aarch64"})
LAUNCHER_SYSTEMS: Final = frozenset({"linux-x86_64", "linux-aarch64", "windows-x86_64"})
# Names stand unquoted in the shell part, in C strings of 48 and 64 bytes, and in Windows file names.
_SLICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,46}")
_PROGRAM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,58}")
MAPPED: Final = ".gguf"
_RESERVED: Final = ("ape", "slices")


def _refuse(what: str, detail: str = "") -> NoReturn:
    raise ApeError(f"APE order: {what}", detail=detail, reason=ApeReason.SPEC)


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """One native executable and the machines it is for."""

    system: str
    path: Path
    level: str = ""
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            _refuse(f"unknown system {self.system!r}", "systems: " + ", ".join(sorted(SYSTEMS)))
        if not _SLICE_NAME.fullmatch(self.name):
            _refuse(f"slice name {self.name!r} must match {_SLICE_NAME.pattern}")
        cpu_features.encode_features(self.system, self.features)

    @property
    def name(self) -> str:
        """What APE_SLICE calls it: `linux-x86_64-v3`."""
        return f"{self.system}-{self.level}" if self.level else self.system


@dataclass(frozen=True, slots=True)
class Asset:
    """A zip entry: deflated, or stored at a 64 KiB boundary so that the program can map it from the file."""

    name: str
    path: Path
    mapped: bool = False

    def __post_init__(self) -> None:
        self.check_name(self.name)

    @staticmethod
    def check_name(name: str) -> None:
        """Refuses what no asset can be called."""
        check_path(name)
        if name.partition("/")[0] in _RESERVED:
            _refuse(f"asset name {name!r} is the linker's own", "names below ape/ and slices/ are taken")


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Everything that goes into one APE. `assets` are files; folders were expanded by whoever made this."""

    program: str
    slices: tuple[SliceSpec, ...]
    launchers: Mapping[str, Path] = field(default_factory=dict)
    assets: tuple[Asset, ...] = ()

    def __post_init__(self) -> None:
        if not _PROGRAM.fullmatch(self.program):
            _refuse(f"program name {self.program!r} must match {_PROGRAM.pattern}")
        if not 0 < len(self.slices) <= MAX_SLICES:
            _refuse(f"{len(self.slices)} slices; an APE has 1 to {MAX_SLICES}")
        _refuse_doubles("slice", (given.name for given in self.slices))
        _refuse_doubles("asset", (asset.name for asset in self.assets))
        if unknown := set(self.launchers) - LAUNCHER_SYSTEMS:
            _refuse(f"no launcher exists for {', '.join(sorted(unknown))}")
        if self._has_windows() and "windows-x86_64" not in self.launchers:
            _refuse("Windows slices need the launcher windows-x86_64")

    def _has_windows(self) -> bool:
        return any(given.system.startswith("windows-") for given in self.slices)


def _refuse_doubles(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _refuse(f"{what} {name!r} is given twice")
        seen.add(name)


def read_spec(path: Path) -> LinkSpec:
    """The order that the JSON file at `path` holds."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ApeError(f"APE order {path}: {error.strerror}", reason=ApeReason.INPUT) from error
    except ValueError as error:
        raise ApeError(f"APE order {path}: not JSON: {error}", reason=ApeReason.SPEC) from error
    return parse_spec(data, path.parent)


def parse_spec(data: object, base: Path) -> LinkSpec:
    """The order that the decoded JSON `data` holds, with relative paths taken from `base`."""
    order = _table(data, "the order", {"program", "slices", "launchers", "assets"})
    launchers = _table(order.get("launchers", {}), "launchers", LAUNCHER_SYSTEMS)
    return LinkSpec(
        program=_text(order, "program", "the order"),
        slices=tuple(_parse_slice(row, base) for row in _list(order, "slices")),
        launchers={system: base / _text(launchers, system, "launchers") for system in launchers},
        assets=tuple(asset for row in _list(order, "assets") for asset in _parse_asset(row, base)),
    )


def _parse_slice(data: object, base: Path) -> SliceSpec:
    row = _table(data, "a slice", {"system", "level", "features", "path"})
    names = _list(row, "features")
    if not all(isinstance(name, str) for name in names):
        _refuse("features of a slice are names")
    return SliceSpec(
        system=_text(row, "system", "a slice"),
        path=base / _text(row, "path", "a slice"),
        level=_text(row, "level", "a slice") if "level" in row else "",
        features=tuple(names),
    )


def _parse_asset(data: object, base: Path) -> tuple[Asset, ...]:
    row = _table(data, "an asset", {"name", "path", "mapped"})
    mapped = row.get("mapped", False)
    if not isinstance(mapped, bool):
        _refuse("`mapped` of an asset is true or false")
    return expand_asset(_text(row, "name", "an asset"), base / _text(row, "path", "an asset"), mapped=mapped)


def expand_asset(name: str, path: Path, *, mapped: bool = False) -> tuple[Asset, ...]:
    """The asset at `path`, or one per file below it when that is a folder, sorted by name. Models are mapped."""
    if not path.is_dir():
        return (Asset(name, path, mapped or name.endswith(MAPPED)),)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if not file.is_dir())
    return tuple(Asset(f"{name}/{below}", file, mapped or below.endswith(MAPPED)) for below, file in files)


def _table(data: object, where: str, allowed: Iterable[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        _refuse(f"{where} must be an object")
    if unknown := set(data) - set(allowed):
        _refuse(f"{where} has unknown fields: {', '.join(sorted(unknown))}")
    return data


def _text(data: Mapping[str, Any], field: str, where: str) -> str:
    value = data.get(field)
    if not isinstance(value, str) or not value:
        _refuse(f"{where} needs {field!r}, a text")
    return value


def _list(data: Mapping[str, Any], field: str) -> list[Any]:
    value = data.get(field, [])
    if not isinstance(value, list):
        _refuse(f"{field!r} must be a list")
    return value
