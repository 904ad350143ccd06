"""One slice of an APE as a program of its own, with all that the APE has in it.

A Linux or Windows program gets the files at its end, where it finds them as it did in the APE. A macOS program is
signed to its last byte, so that they lie in the support folder beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.staging import Staging
from mmojo_forge.ape.format.manifest import SliceRecord
from mmojo_forge.ape.packaging import item_writer, names
from mmojo_forge.ape.packaging.contents import PackageContents, lay_out_all_beside, lay_out_inside
from mmojo_forge.ape.packaging.gather import gather
from mmojo_forge.ape.packaging.order import PackageOrder
from mmojo_forge.ape.packaging.outputs import WINDOWS_LIMIT
from mmojo_forge.ape.read import executable
from mmojo_forge.ape.read.program import Program, ProgramKind

_KINDS = MappingProxyType({"linux": ProgramKind.ELF, "windows": ProgramKind.PE, "macos": ProgramKind.MACHO})


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take_slice` wrote: the slice's name, the file and its size, and the names of files beside it."""

    slice: str
    path: Path
    size: int
    beside: tuple[str, ...]


def take_slice(path: Path, system: str, out: Path, *, level: str = "") -> Taken:
    """Makes `out` a program for `system` alone; without a `level`, the slice that the most machines can run.

    Raises ApeError (`ape-no-entry` where there is no such slice).
    """
    contents = gather(PackageOrder(path))
    if contents.program.facts is None:
        raise ApeError(f"assimilate {path}: not an APE that forge linked", reason=ApeReason.FOREIGN)
    record = _choose(contents.program.facts.slices, system, level, path)
    contents = _alone(contents, record)
    layout = lay_out_all_beside(contents) if contents.program.kind is ProgramKind.MACHO else lay_out_inside(contents)
    size = item_writer.measure_program(layout)
    if contents.program.kind is ProgramKind.PE and size >= WINDOWS_LIMIT:
        raise ApeError(
            f"assimilate {path}: {size / 1e9:.2f} GB, and Windows starts no program of 4 GiB or more",
            detail="`forge package --format exe` puts the model beside the program.",
            reason=ApeReason.OUTPUT,
        )
    with Staging("assimilate") as staging:
        with staging.file(out, mode=0o755) as stream:
            item_writer.write_program(layout, stream, lambda _: None)
        for item in layout.beside:
            place = out.parent / names.SUPPORT / item.name
            staging.parents(place.parent)
            with staging.file(place, mode=0o755 if item.executable else 0o644) as stream:
                item_writer.write_file(item, stream, lambda _: None)
        staging.commit()
    return Taken(record.name, out, size, tuple(item.name for item in layout.beside))


def _choose(slices: Sequence[SliceRecord], system: str, level: str, path: Path) -> SliceRecord:
    fitting = [record for record in slices if record.system == system and level in {"", record.level}]
    if not fitting:
        raise ApeError(
            f"assimilate {path}: it has no slice for {system}{f' at level {level}' if level else ''}",
            detail="slices: " + ", ".join(record.name for record in slices),
            reason=ApeReason.NO_ENTRY,
        )
    # They stand best first, and the last one asks the least of the machine.
    return fitting[-1]


def _alone(contents: PackageContents, record: SliceRecord) -> PackageContents:
    """The same contents around one slice."""
    whole = contents.program
    with content.open_input(whole.path, "APE") as stream:
        stream.seek(record.offset)
        head = stream.read(min(executable.HEAD, record.size))
    kind = _KINDS[record.system.partition("-")[0]]
    program = Program(
        whole.path, kind, record.system, record.size, record.size, None, None, head, None, start=record.offset
    )
    return replace(contents, program=program)
