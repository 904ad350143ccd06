"""GPU modules for `forge package`: the folders that are given or realised, and the programs that can load them.

--module ggml-vulkan ──▶ target ggml-vulkan ──▶ modules/linux-x86_64/ggml-vulkan/
mmojo-server.ape, linked statically ──▶ target mmojo-server.hosts ──▶ modules/linux-x86_64/host/

The GPU modules in a packaged program: what each says of itself in its module.json, and whether it fits.

Nobody has checked what is in such a file: of what it says only what is known is taken, if it is of the right type and
of a size that makes sense.
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
"""The results of targets, in order."""


def targets_of(given: Sequence[str], program: Path) -> tuple[str, ...]:
    """The targets that the modules come from, each once: those that are given by name, and that of the programs which
    load them, unless the program itself does, or they are given; raises EngineError (`no-modules`), ApeError."""
    if not given:
        return ()
    names = [one for one in given if "/" not in one]
    hosts = any(_name_of(Path(one)) == HOST for one in given if "/" in one)
    return tuple(dict.fromkeys(names if hosts else (*names, *_hosts_of(read_program(program)))))


def find_modules(given: Sequence[str], targets: Sequence[str], realise: Realise) -> tuple[NamedFile, ...]:
    """The folders to be packed, called as the program looks for them; raises ForgeError."""
    if not given:
        return ()
    folders = [NamedFile(_name_of(Path(one)), Path(one)) for one in given if "/" in one]
    results = zip(targets, realise(targets), strict=True)
    realised = [NamedFile(HOST if name.endswith(_HOSTS) else _name_of(path), path) for name, path in results]
    return (*folders, *realised)


def _hosts_of(program: Program) -> tuple[str, ...]:
    system = "linux-x86_64"
    if program.facts is not None:
        if not any(one.system == system for one in program.facts.slices):
            raise _refuse(program, f"it has no slice for {system}")
        return (program.facts.program + _HOSTS,)
    if program.kind is not ProgramKind.ELF or program.system != system:
        raise _refuse(program, f"it is not a program for {system}")
    image = parse_elf(program.head, f"package {program.path}", ApeReason.NOT_A_PROGRAM)
    return () if not image.is_static() else (program.path.name + _HOSTS,)


def _refuse(program: Program, cause: str) -> EngineError:
    return EngineError(
        f"package {program.path}: {cause}, and modules are made for no other system",
        detail="Leave --module away; docs/modules.md says where GPUs are used.",
        reason="no-modules",
    )


def _name_of(folder: Path) -> str:
    """What the folder is called in a package: like the module in it."""
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
    """What a module says of itself; what it does not say is empty.

    `backend` is ggml's name of it, `needs` the library of the driver, `driver` the least version of that as
    cuDriverGetVersion counts (13000 for 13.0), `ggml_abi` what the headers hash to that it was compiled with,
    `architectures` those of CUDA that it has code for.
    """

    backend: str = ""
    needs: str = ""
    driver: int | None = None
    ggml_version: str = ""
    ggml_abi: str = ""
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PackagedModule:
    """A folder of modules/: `size` in bytes of all files, `fault` what is wrong with it, empty if nothing is."""

    name: str
    size: int
    files: tuple[str, ...]
    facts: ModuleFacts = ModuleFacts()
    fault: str = ""

    @property
    def is_host(self) -> bool:
        """Whether it holds the programs that load the others."""
        return self.name == names.HOST

    def to_json(self) -> dict[str, Any]:
        """A row of `modules` in `forge ape inspect --json`."""
        return asdict(self)


def modules_in(path: Path, found: Sequence[DirectoryEntry]) -> tuple[PackagedModule, ...]:
    """Those that are in the program at `path`, of whose zip these are the entries."""
    folders: dict[str, list[DirectoryEntry]] = {}
    for entry in found:
        if entry.name.startswith(names.MODULES):
            folders.setdefault(entry.name.removeprefix(names.MODULES).partition("/")[0], []).append(entry)
    wanted = _abi_wanted(path, found) if folders else ""
    return tuple(_module(path, name, inside, wanted) for name, inside in sorted(folders.items()))


def described(module: PackagedModule) -> str:
    """In one line for a person: for what, which ggml, what of a driver it needs, for which architectures."""
    if module.is_host:
        return f"what loads them: {', '.join(name for name in module.files if name != SUMS)}"
    facts = module.facts
    version = f" of {facts.driver // 1000}.{facts.driver % 1000 // 10} or later" if facts.driver else ""
    rows = (
        ("", facts.backend),
        ("ggml ", facts.ggml_version),
        ("needs ", f"{facts.needs}{version}" if facts.needs else ""),
        ("code for ", " ".join(facts.architectures)),
    )
    return ", ".join(f"{word}{value}" for word, value in rows if value) or "says nothing of itself"


def _abi_wanted(path: Path, found: Sequence[DirectoryEntry]) -> str:
    """The ggml that the program is made of: a program for glibc says so itself, an APE in a file; empty if neither."""
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
        fault = f"for another version of ggml ({facts.ggml_abi}) than the program ({wanted}), which will not load it"
    return PackagedModule(name, size, files, facts, fault)


def _object(path: Path, entry: DirectoryEntry) -> tuple[Mapping[str, Any], str]:
    """The JSON object that an entry is, and what is wrong with it."""
    if entry.size > _LARGEST:
        return {}, f"{entry.name} is too large to be what it is called"
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
