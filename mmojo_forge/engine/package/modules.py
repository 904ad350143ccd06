"""GPU modules: finds those to package, and reads those in a packaged program.

Packaging takes module folders that the user names or that targets give. A statically linked program cannot load
modules, so packaging adds host programs, which can:

    --module ggml-vulkan ──▶ target ggml-vulkan ──▶ modules/linux-x86_64/ggml-vulkan/
    mmojo-server.ape, linked statically ──▶ target mmojo-server.hosts ──▶ modules/linux-x86_64/host/

Each module in a packaged program describes itself in its module.json (a note). That file is not trusted: only known
keys are read, and only values with the right type and a plausible size.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format.elf import parse_elf
from mmojo_forge.ape.format.zip_directory import DirectoryEntry
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.modules import SUMS
from mmojo_forge.ape.packaging.names import HOST
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.read.executable import read_note
from mmojo_forge.ape.read.program import Program, ProgramKind, read_program
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.package import build_info

_HOSTS = ".hosts"
Realise = Callable[[Sequence[str]], Sequence[Path]]
"""Realises targets; returns the path of each result, in order."""


def targets_of(given: Sequence[str], program: Path) -> tuple[str, ...]:
    """The targets that provide the modules, without duplicates. Raises EngineError (`no-modules`), ApeError.

    These are the modules given by name, and the target of the host programs. The latter is not needed if the program
    can load modules itself, or if `given` has a folder of host programs.
    """
    if not given:
        return ()
    targets = [module for module in given if "/" not in module]
    has_host = any(_name_of(Path(module)) == HOST for module in given if "/" in module)
    return tuple(dict.fromkeys(targets if has_host else (*targets, *_hosts_of(read_program(program)))))


def find_modules(given: Sequence[str], targets: Sequence[str], realise: Realise) -> tuple[NamedFile, ...]:
    """The module folders to pack, with the names that the program expects; raises ForgeError."""
    if not given:
        return ()
    folders = [NamedFile(_name_of(Path(module)), Path(module)) for module in given if "/" in module]
    results = zip(targets, realise(targets), strict=True)
    realised = [NamedFile(HOST if name.endswith(_HOSTS) else _name_of(path), path) for name, path in results]
    return (*folders, *realised)


def _hosts_of(program: Program) -> tuple[str, ...]:
    system = "linux-x86_64"
    if program.facts is not None:
        if not any(part.system == system for part in program.facts.slices):
            raise _refuse(program, f"it has no slice for {system}")
        return (program.facts.program + _HOSTS,)
    if program.kind is not ProgramKind.ELF or program.system != system:
        raise _refuse(program, f"it is not a program for {system}")
    image = parse_elf(program.head, f"package {program.path}", ApeReason.NOT_A_PROGRAM)
    return () if not image.is_static() else (program.path.name + _HOSTS,)


def _refuse(program: Program, cause: str) -> EngineError:
    return EngineError(
        f"package {program.path}: {cause}, and GPU modules exist for no other system",
        detail="Omit --module. docs/modules.md says on which systems GPUs are used.",
        reason="no-modules",
    )


def _name_of(folder: Path) -> str:
    """The folder's name in a package: the name of the module in it."""
    found = sorted(folder.glob("libggml-*.so"))
    if found:
        return found[0].stem.removeprefix("lib")
    return HOST if folder.name.endswith((HOST, f"{HOST}s")) else folder.name


FACTS: Final = "module.json"
_LARGEST: Final = 1 << 16
_LONGEST: Final = 100
_MOST: Final = 100
_NEWEST_DRIVER: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """A module's note; absent facts are empty.

    - `backend`: ggml's name for it.
    - `needs`: the driver's library.
    - `driver`: the least driver version, as cuDriverGetVersion counts (13000 for 13.0).
    - `ggml_abi`: a hash of the ggml headers that it was compiled with.
    - `architectures`: the CUDA architectures that it has code for.
    """

    backend: str = ""
    needs: str = ""
    driver: int | None = None
    ggml_version: str = ""
    ggml_abi: str = ""
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PackagedModule:
    """A folder below modules/. `size` is the total of its files in bytes; `fault` is empty if the module is fine."""

    name: str
    size: int
    files: tuple[str, ...]
    facts: ModuleFacts = ModuleFacts()
    fault: str = ""

    @property
    def is_host(self) -> bool:
        """Whether it has the host programs, which load the modules."""
        return self.name == names.HOST

    def to_json(self) -> dict[str, Any]:
        """A row of `modules` in `forge ape inspect --json`."""
        return asdict(self)


def modules_in(path: Path, found: Sequence[DirectoryEntry]) -> tuple[PackagedModule, ...]:
    """The modules among the zip entries `found` of the program at `path`."""
    folders: dict[str, list[DirectoryEntry]] = {}
    for entry in found:
        if entry.name.startswith(names.MODULES):
            folders.setdefault(entry.name.removeprefix(names.MODULES).partition("/")[0], []).append(entry)
    wanted = _abi_wanted(path, found) if folders else ""
    return tuple(_module(path, name, inside, wanted) for name, inside in sorted(folders.items()))


def described(module: PackagedModule) -> str:
    """One line for a person: backend, ggml version, needed driver, architectures."""
    if module.is_host:
        return f"host programs: {', '.join(name for name in module.files if name != SUMS)}"
    facts = module.facts
    version = f" {facts.driver // 1000}.{facts.driver % 1000 // 10} or later" if facts.driver else ""
    rows = (
        ("", facts.backend),
        ("ggml ", facts.ggml_version),
        ("needs ", f"{facts.needs}{version}" if facts.needs else ""),
        ("code for ", " ".join(facts.architectures)),
    )
    return ", ".join(f"{word}{value}" for word, value in rows if value) or "no description"


def _abi_wanted(path: Path, found: Sequence[DirectoryEntry]) -> str:
    """The hash of the program's ggml headers, from its ELF note or, for an APE, its build-info.json; else empty."""
    with contextlib.suppress(ApeError):
        if note := read_note(path, "program").get("ggml", ""):
            return note
    infos = [entry for entry in found if entry.name == build_info.NAME]
    return next((_text(_object(path, entry)[0].get("ggml"), "abi") for entry in infos), "")


def _module(path: Path, name: str, inside: Sequence[DirectoryEntry], wanted: str) -> PackagedModule:
    files = tuple(entry.name.rpartition("/")[2] for entry in inside)
    size = sum(entry.size for entry in inside)
    said: Mapping[str, Any] = {}
    fault = ""
    for entry in inside:
        if entry.name == f"{names.MODULES}{name}/{FACTS}":
            said, fault = _object(path, entry)
    facts = _facts(said)
    if facts.ggml_abi and wanted and facts.ggml_abi != wanted:
        fault = f"it is for ggml {facts.ggml_abi}, but the program has ggml {wanted} and will not load it"
    return PackagedModule(name, size, files, facts, fault)


def _object(path: Path, entry: DirectoryEntry) -> tuple[Mapping[str, Any], str]:
    """The JSON object in an entry, and its fault; one of them is empty."""
    if entry.size > _LARGEST:
        return {}, f"{entry.name} is larger than {_LARGEST >> 10} KiB"
    try:
        with content.open_input(path, "program") as stream:
            document = json.loads(content.read_entry_text(stream, entry, str(path)))
    except ApeError as error:
        return {}, error.message
    except (ValueError, RecursionError):
        document = None
    return (document, "") if isinstance(document, dict) else ({}, f"{entry.name} is not a JSON object")


def _facts(said: Mapping[str, Any]) -> ModuleFacts:
    driver = said.get("driver")
    listed = said.get("architectures")
    words = listed if isinstance(listed, list) and len(listed) <= _MOST else ()
    return ModuleFacts(
        _text(said, "backend"),
        _text(said, "needs"),
        driver if type(driver) is int and 0 < driver <= _NEWEST_DRIVER else None,
        _text(said.get("ggml"), "version"),
        _text(said.get("ggml"), "abi"),
        tuple(word for word in words if _is_text(word)),
    )


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and _is_text(found) else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()
