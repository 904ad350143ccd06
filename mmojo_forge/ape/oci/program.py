"""The program of one platform: an APE with that platform's slices only, which a bare execve starts.

It is linked again from what lies in the whole file, so no toolchain is needed, and the same file gives the same bytes.
What else its zip holds goes along as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape import container, content, entries
from mmojo_forge.ape.assimilate import assimilate
from mmojo_forge.ape.container import Container
from mmojo_forge.ape.directory import read_directory
from mmojo_forge.ape.extract import extract
from mmojo_forge.ape.layout import BLOCK
from mmojo_forge.ape.link import link
from mmojo_forge.ape.manifest import NAME as MANIFEST
from mmojo_forge.ape.manifest import SliceRecord
from mmojo_forge.ape.spec import LinkSpec, SliceSpec
from mmojo_forge.ape.writer import EntryWriter, entry_of


@dataclass(frozen=True, slots=True)
class Program:
    """A program for one system, and the slices it would unpack when it starts."""

    path: Path
    slices: tuple[tuple[SliceRecord, Path], ...]


def make_program(ape: Container, system: str, folder: Path) -> Program:
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
    return Program(made, tuple(slices))


def _copy_entries(ape: Container, to: Path) -> None:
    """Copies entries as they lie there: what was compressed is not compressed again, which might give other bytes."""
    own = {MANIFEST, *(one.entry for one in ape.slices), *(one.entry for one in ape.launchers)}
    others = [entry for entry in ape.entries if entry.name not in own]
    linked = container.read_container(to)
    with content.open_input(ape.path, "APE") as source:
        for entry in others:
            entries.copy_entry(source, entry, str(ape.path))
    # Opened anew: copying moves the file's position behind the back of a stream that was read from.
    with content.open_input(ape.path, "APE") as source, to.open("r+b") as stream:
        directory = read_directory(stream, linked.size, str(to))
        assert directory is not None
        stream.seek(directory.start)
        stream.truncate()
        writer = EntryWriter(stream, [entry_of(entry) for entry in linked.entries])
        for entry in others:
            align = BLOCK if entry.mappable else 1
            writer.add_copied(entry_of(entry), source, entry.offset, _ignore, align=align)
        writer.finish()


def _ignore(_count: int) -> None:
    """Nobody waits for these few bytes."""
