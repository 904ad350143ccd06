"""GPU modules for `forge package`: the folders that are given or realised, and the programs that can load them.

--module ggml-vulkan ──▶ target ggml-vulkan ──▶ modules/linux-x86_64/ggml-vulkan/
mmojo-server.ape, linked statically ──▶ target mmojo-server.hosts ──▶ modules/linux-x86_64/host/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmojo_forge.ape.elf import parse_elf
from mmojo_forge.ape.error import ApeReason
from mmojo_forge.ape.packaging.names import HOST
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.program import Kind, Program, read_program
from mmojo_forge.engine.errors import EngineError

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
    if program.kind is not Kind.ELF or program.system != system:
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
