"""The GPU modules in a packaged program: what each says of itself in its module.json, and whether it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mmojo_forge.ape import content, entries
from mmojo_forge.ape.directory import Entry
from mmojo_forge.ape.error import ApeError
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.modules import SUMS
from mmojo_forge.engine import build_info

FACTS: Final = "module.json"


@dataclass(frozen=True, slots=True)
class PackagedModule:
    """A folder of modules/: `size` in bytes of all files, `facts` of module.json, empty where it has none."""

    name: str
    size: int
    files: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def is_host(self) -> bool:
        """Whether it holds the programs that load the others."""
        return self.name == names.HOST

    def to_json(self) -> dict[str, Any]:
        """A row of `modules` in `forge ape inspect --json`."""
        return {
            "name": self.name,
            "size": self.size,
            "files": list(self.files),
            "facts": dict(self.facts),
            "fault": self.fault,
        }


def modules_in(path: Path, found: Sequence[Entry]) -> tuple[PackagedModule, ...]:
    """Those that are in the program at `path`, of whose zip these are the entries."""
    folders: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.name.startswith(names.MODULES):
            folders.setdefault(entry.name.removeprefix(names.MODULES).partition("/")[0], []).append(entry)
    infos = [entry for entry in found if folders and entry.name == build_info.NAME]
    wanted = next((_text(_object(path, entry)[0].get("ggml"), "abi") for entry in infos), "")
    return tuple(_module(path, name, inside, wanted) for name, inside in sorted(folders.items()))


def _module(path: Path, name: str, inside: Sequence[Entry], wanted: str) -> PackagedModule:
    files = tuple(entry.name.rpartition("/")[2] for entry in inside)
    size = sum(entry.size for entry in inside)
    facts: Mapping[str, Any] = {}
    fault = ""
    for entry in inside:
        if entry.name == f"{names.MODULES}{name}/{FACTS}":
            facts, fault = _object(path, entry)
    given = _text(facts.get("ggml"), "abi")
    if given and wanted and given != wanted:
        fault = f"for another version of ggml ({given}) than the program ({wanted}), which will not load it"
    return PackagedModule(name, size, files, facts, fault)


def _object(path: Path, entry: Entry) -> tuple[Mapping[str, Any], str]:
    """The JSON object that an entry is, and what is wrong with it."""
    try:
        with content.open_input(path, "program") as stream:
            document = json.loads(entries.read_text(stream, entry, str(path)))
    except ApeError as error:
        return {}, error.message
    except (ValueError, RecursionError):
        document = None
    return (document, "") if isinstance(document, dict) else ({}, f"{entry.name} is not a JSON object")


def described(module: PackagedModule) -> str:
    """In one line for a person: for what, which ggml, what of a driver it needs, for which architectures."""
    if module.is_host:
        return f"what loads them: {', '.join(name for name in module.files if name != SUMS)}"
    facts = module.facts
    driver = facts.get("driver")
    version = f" of {driver // 1000}.{driver % 1000 // 10} or later" if isinstance(driver, int) else ""
    architectures = facts.get("architectures")
    rows = (
        ("", _text(facts, "backend")),
        ("ggml ", _text(facts.get("ggml"), "version")),
        ("needs ", f"{_text(facts, 'needs')}{version}" if _text(facts, "needs") else ""),
        ("code for ", " ".join(map(str, architectures)) if isinstance(architectures, list) else ""),
    )
    return ", ".join(f"{word}{value}" for word, value in rows if value) or "says nothing of itself"


def _text(value: object, key: str) -> str:
    """A text in a JSON object, empty where there is none: nobody has checked what is in the file."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
