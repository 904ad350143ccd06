"""What lies in an image: layers that change seldom first, and large things in layers of their own.

    each model                         mmojo-server-support/NAME.gguf              for all platforms
    other files for the support folder mmojo-server-support/…                      for all platforms
    the program                        PROGRAM, its slices unpacked, tmp           per platform

A registry, and a machine that pulls, has what it had already: a new program sends no model again. Slices lie in the
image as a first start would have unpacked them, so that a container whose file system is read-only starts, too;
for another user than the image's they do not count (they must be its own), and the program unpacks its own to /tmp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mmojo_forge.ape.container import Container
from mmojo_forge.ape.oci.document import USER
from mmojo_forge.ape.oci.error import OciError, OciReason
from mmojo_forge.ape.oci.program import Program
from mmojo_forge.ape.oci.source import Source, whole_file
from mmojo_forge.ape.oci.tar import Member, Tar
from mmojo_forge.ape.packaging.names import SUPPORT
from mmojo_forge.ape.spec import check_path

# In a layer such a name means that a file of a layer below is gone (image-spec, layer.md, "Whiteouts").
_WHITEOUT: Final = ".wh."


def cache_folder(program: str) -> str:
    """Where slices lie unpacked, without the slash in front: the program's XDG_CACHE_HOME."""
    return f"var/cache/{program}"


def support_layer(files: Mapping[str, Source]) -> Tar:
    """A layer of files in the support folder, by their name there.

    Raises OciError (`oci-name`), ApeError (`ape-spec`).
    """
    for name in files:
        check_path(name)
        if any(part.startswith(_WHITEOUT) for part in name.split("/")):
            raise OciError(
                f"put {name} into an image: names that begin with {_WHITEOUT} mean a file that is gone",
                reason=OciReason.NAME,
            )
    named = {f"{SUPPORT}/{name}": source for name, source in files.items()}
    folders = [Member(folder, 0o755) for folder in _parents(named)]
    return _tar([*folders, *(Member(name, 0o644, source) for name, source in named.items())])


def program_layer(ape: Container, program: Program) -> Tar:
    """The layer of one platform."""
    cache = cache_folder(ape.program)
    unpacked = {f"{cache}/ape/{record.sha256}/{ape.program}": path for record, path in program.slices}
    folders = [Member(folder, 0o755, owner=USER if folder.startswith(cache) else 0) for folder in _parents(unpacked)]
    copies = [Member(name, 0o555, whole_file(path), USER) for name, path in unpacked.items()]
    own = [Member(ape.program, 0o555, whole_file(program.path)), Member("tmp", 0o1777)]
    return _tar([*own, *folders, *copies])


def _parents(names: Iterable[str]) -> Sequence[str]:
    found = {"/".join(parts[:depth]) for parts in (name.split("/") for name in names) for depth in range(1, len(parts))}
    return sorted(found)


def _tar(members: Iterable[Member]) -> Tar:
    """Sorted by name, which puts a folder before what lies in it."""
    return Tar(tuple(sorted(members, key=lambda member: member.name.encode())))
