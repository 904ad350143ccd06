"""What lies in an image: layers that change seldom first, and large things in layers of their own.

    each model                         mmojo-server-support/NAME.gguf              for all platforms
    other files for the support folder mmojo-server-support/…                      for all platforms
    the program                        PROGRAM, its slices unpacked, tmp           per platform

A registry, and a machine that pulls, has what it had already: a new program sends no model again. Slices lie in the
image as a first start would have unpacked them, so that a container whose file system is read-only starts, too;
for another user than the image's they do not count (they must be its own), and the program unpacks its own to /tmp.

The program of a platform is an APE with that platform's slices only, which a bare execve starts. It is linked again
from what lies in the whole file, so no toolchain is needed, and the same file gives the same bytes. What else its zip
holds goes along as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmojo_forge.ape.errors import OciError, OciReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format.layout import BLOCK
from mmojo_forge.ape.format.manifest import NAME as MANIFEST
from mmojo_forge.ape.format.manifest import SliceRecord
from mmojo_forge.ape.format.zip_directory import check_path, read_directory
from mmojo_forge.ape.oci.document import USER
from mmojo_forge.ape.oci.tar import ByteSource, Tar, TarMember, whole_file
from mmojo_forge.ape.packaging.names import SUPPORT
from mmojo_forge.ape.read import container
from mmojo_forge.ape.read.container import Container
from mmojo_forge.ape.read.extract import extract
from mmojo_forge.ape.write.edit import assimilate
from mmojo_forge.ape.write.entry_writer import EntryWriter, record_of
from mmojo_forge.ape.write.link import link
from mmojo_forge.ape.write.spec import LinkSpec, SliceSpec

# In a layer such a name means that a file of a layer below is gone (image-spec, layer.md, "Whiteouts").
_WHITEOUT: Final = ".wh."


@dataclass(frozen=True, slots=True)
class PlatformProgram:
    """A program for one system, and the slices it would unpack when it starts."""

    path: Path
    slices: tuple[tuple[SliceRecord, Path], ...]


def make_program(ape: Container, system: str, folder: Path) -> PlatformProgram:
    """Makes the program of `ape` for `system` in the empty folder `folder`; raises ApeError, OciError."""
    slices = [(record, folder / record.name) for record in ape.slices if record.system == system]
    for record, path in slices:
        extract(ape.path, record.name, path)
    launcher = folder / "launcher"
    extract(ape.path, f"ape/launcher-{system}", launcher)
    specs = tuple(SliceSpec(system, path, record.level, record.features) for record, path in slices)
    made = link(LinkSpec(ape.program, specs, {system: launcher}), folder / "program").path
    _copy_entries(ape, made)
    assimilate(made, system)
    return PlatformProgram(made, tuple(slices))


def _copy_entries(ape: Container, to: Path) -> None:
    """Copies entries as they lie there: what was compressed is not compressed again, which might give other bytes."""
    own = {MANIFEST, *(record.entry for record in ape.slices), *(record.entry for record in ape.launchers)}
    others = [entry for entry in ape.entries if entry.name not in own]
    linked = container.read_container(to)
    with content.open_input(ape.path, "APE") as source:
        for entry in others:
            content.copy_entry(source, entry, str(ape.path))
    # Opened anew: copying moves the file's position behind the back of a stream that was read from.
    with content.open_input(ape.path, "APE") as source, to.open("r+b") as stream:
        directory = read_directory(stream, linked.size, str(to))
        assert directory is not None
        stream.seek(directory.start)
        stream.truncate()
        writer = EntryWriter(stream, [record_of(entry) for entry in linked.entries])
        for entry in others:
            align = BLOCK if entry.mappable else 1
            writer.add_copied(record_of(entry), source, entry.offset, _ignore, align=align)
        writer.finish()


def _ignore(_count: int) -> None:
    """Nobody waits for these few bytes."""


def cache_folder(program: str) -> str:
    """Where slices lie unpacked, without the slash in front: the program's XDG_CACHE_HOME."""
    return f"var/cache/{program}"


def support_layer(files: Mapping[str, ByteSource]) -> Tar:
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
    folders = [TarMember(folder, 0o755) for folder in _parents(named)]
    return _tar([*folders, *(TarMember(name, 0o644, source) for name, source in named.items())])


def program_layer(ape: Container, program: PlatformProgram) -> Tar:
    """The layer of one platform."""
    cache = cache_folder(ape.program)
    unpacked = {f"{cache}/ape/{record.sha256}/{ape.program}": path for record, path in program.slices}
    folders = [TarMember(folder, 0o755, owner=USER if folder.startswith(cache) else 0) for folder in _parents(unpacked)]
    copies = [TarMember(name, 0o555, whole_file(path), USER) for name, path in unpacked.items()]
    own = [TarMember(ape.program, 0o555, whole_file(program.path)), TarMember("tmp", 0o1777)]
    return _tar([*own, *folders, *copies])


def _parents(names: Iterable[str]) -> Sequence[str]:
    found = {"/".join(parts[:depth]) for parts in (name.split("/") for name in names) for depth in range(1, len(parts))}
    return sorted(found)


def _tar(members: Iterable[TarMember]) -> Tar:
    """Sorted by name, which puts a folder before what lies in it."""
    return Tar(tuple(sorted(members, key=lambda member: member.name.encode())))
