"""GPU backends that are packaged as modules, and the programs that can load them.

modules/linux-x86_64/ggml-cuda/libggml-cuda.so    a module, with libraries of its own beside it
modules/linux-x86_64/host/mmojo-server-v3         the program linked to glibc: static ones load nothing
modules/linux-x86_64/…/SHA256SUMS                 of each folder, by which it is unpacked
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import InMemory, PackageItem
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.packaging.sources import walk_folder
from mmojo_forge.ape.read.executable import read_note
from mmojo_forge.ape.read.program import Program, ProgramKind

SUMS: Final = "SHA256SUMS"
_WHAT: Final = "module"
_BUILD_INFO: Final = "build-info.json"


@dataclass(frozen=True, slots=True)
class Modules:
    """The folders as items, and what headers of ggml they are all for: a hash, empty if there are none."""

    items: tuple[PackageItem, ...]
    ggml: str

    def check_fit(self, program: Program) -> None:
        """Raise ApeError (`ape-module`) if the program says that it is made of another ggml: it would load none of
        them, and start none of the programs in `host` either."""
        wanted = _version_wanted(program) if self.ggml else ""
        if wanted and wanted != self.ggml:
            raise _other("modules", program.path.name, self.ggml, wanted)


def _version_wanted(program: Program) -> str:
    """What an APE's build-info.json says, or the note of a program for glibc; empty if neither says anything."""
    if program.kind is ProgramKind.ELF:
        return read_note(program.path, "package").get("ggml", "")
    info = next((entry for entry in program.assets if entry.name == _BUILD_INFO), None)
    if info is None:
        return ""
    with content.open_input(program.path, "program") as stream:
        text = content.read_entry_text(stream, info, str(program.path))
    try:
        return str(json.loads(text)["ggml"]["abi"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # of an older recipe, or of somebody else's


def look_at_modules(modules: Sequence[NamedFile]) -> Modules:
    """What is in the folders; raises ApeError (`ape-module`) for what no program could load, or not together."""
    fits: dict[str, NamedFile] = {}
    found: list[PackageItem] = []
    for module in modules:
        items = _folder(module)
        for path in _programs(module, items):
            fits.setdefault(_version(path), module)
        found += [*items, _sums(module, items)]
    if len(fits) > 1:
        (version, first), (others, other) = sorted(fits.items())[:2]
        raise _other(f"module {first.name}", other.name, version, others)
    return Modules(tuple(found), next(iter(fits), ""))


def _other(what: str, than: str, version: str, others: str) -> ApeError:
    return ApeError(
        f"package {what}: for another version of ggml than {than}",
        detail=f"{version} and {others} are what their headers hash to. Build both from one workspace.",
        reason=ApeReason.MODULE,
    )


def _folder(module: NamedFile) -> list[PackageItem]:
    prefix = f"{names.MODULES}{module.name}"
    if "/" in module.name or not module.path.is_dir():
        raise ApeError(f"package module {module.path}: not a folder with a module in it", reason=ApeReason.MODULE)
    items = [item for item in walk_folder(module.path, prefix, _WHAT) if item.name != f"{prefix}/{SUMS}"]
    for item in items:
        if "/" in item.name.removeprefix(f"{prefix}/"):
            raise ApeError(
                f"package module {module.path}: {item.name.removeprefix(f'{prefix}/')} lies in a folder of its own",
                detail="A module and its libraries lie side by side.",
                reason=ApeReason.MODULE,
            )
    return items


def _programs(module: NamedFile, items: Iterable[PackageItem]) -> list[Path]:
    """What says of itself which ggml it is for: the module, or the programs that load modules."""
    is_host = module.name == names.HOST
    inside = [item.name.rpartition("/")[2] for item in items]
    found = [name for name in inside if is_host or fnmatch(name, "libggml-*.so")]
    if not found or (not is_host and len(found) > 1):
        what = "a program" if is_host else "one libggml-*.so"
        raise ApeError(f"package module {module.path}: there is not {what} in it", reason=ApeReason.MODULE)
    return [module.path / name for name in found]


def _version(path: Path) -> str:
    version = read_note(path, "package module").get("ggml", "")
    if not version:
        raise ApeError(
            f"package module {path}: it does not say which ggml it is for",
            detail="llama.cpp's own builds do not; take one that forge built: ggml-cuda, ggml-vulkan.",
            reason=ApeReason.MODULE,
        )
    return version


def _sums(module: NamedFile, items: Iterable[PackageItem]) -> PackageItem:
    """As sha256sum writes them (GNU coreutils)."""
    lines = []
    for item in items:
        name = item.name.rpartition("/")[2]
        hasher = hashlib.sha256()
        with content.open_input(module.path / name, "package module") as stream:
            for chunk in content.read_chunks(stream):
                hasher.update(chunk)
        lines.append(f"{hasher.hexdigest()}  {name}\n")
    return PackageItem(f"{names.MODULES}{module.name}/{SUMS}", InMemory("".join(lines).encode()))
