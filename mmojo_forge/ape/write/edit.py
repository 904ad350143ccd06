"""Changing a linked APE: `append` adds assets, `assimilate` makes it a native ELF that a bare execve starts.

Appended entries take the directory's place and a new directory follows them. Nothing before the old one changes, so
slices, launchers and the shell part need no relinking, and the same assets give the same bytes as linking with them.

Assimilation writes the 64 bytes that the printf line holds to offset 0. Such a copy no longer starts on other systems;
the rest of the file, and what is read out of it, stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.staging import replace_file
from mmojo_forge.ape.format import script
from mmojo_forge.ape.format.zip_directory import read_directory
from mmojo_forge.ape.read import container
from mmojo_forge.ape.read.container import Container
from mmojo_forge.ape.write.entry_writer import EntryWriter, record_of
from mmojo_forge.ape.write.spec import Asset


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append` made of the file."""

    path: Path
    size: int
    names: tuple[str, ...]


def append(path: Path, assets: Sequence[Asset]) -> Appended:
    """Adds `assets` to the APE at `path`, in place. When that fails the file is as it was."""
    ape = container.read_container(path)
    if ape.pe and ape.pe.signature:
        raise ApeError(
            f"append to {path}: it is signed, and the signature covers its end",
            detail="Sign what is finished: add the files to the unsigned program first.",
            reason=ApeReason.SIGNED,
        )
    names = [entry.name for entry in ape.entries]
    for asset in assets:
        if asset.name in names:
            raise ApeError(f"append to {path}: it has an entry {asset.name!r} already", reason=ApeReason.SPEC)
        names.append(asset.name)
    try:
        with path.open("r+b") as stream:
            size = _append(stream, ape, assets)
    except OSError as error:
        raise ApeError(f"append to {path}: {error.strerror or error}", reason=ApeReason.INPUT) from error
    return Appended(path, size, tuple(asset.name for asset in assets))


def _append(stream: BinaryIO, ape: Container, assets: Sequence[Asset]) -> int:
    found = read_directory(stream, ape.size, str(ape.path))
    assert found is not None
    end = max((entry.offset + entry.packed for entry in found.entries), default=found.start)
    stream.seek(end)
    directory = stream.read()
    writer = EntryWriter(stream, [record_of(entry) for entry in found.entries])
    try:
        stream.seek(end)
        for asset in assets:
            writer.add_asset(asset)
        writer.finish()
    except BaseException:
        stream.seek(end)
        stream.write(directory)
        stream.truncate()
        raise
    return stream.tell()


@dataclass(frozen=True, slots=True)
class Assimilated:
    """What `assimilate` wrote."""

    path: Path
    system: str


def assimilate(path: Path, system: str, out: Path | None = None) -> Assimilated:
    """Makes `path`, or a copy of it at `out`, a native executable of `system` (`linux-x86_64`, `linux-aarch64`)."""
    ape = container.read_container(path)
    with content.open_input(path, "APE") as stream:
        headers = script.decode_headers(stream.read(script.LOADER_WINDOW))
    header = dict(zip(ape.elf_headers, headers, strict=True)).get(system)
    if header is None:
        raise ApeError(
            f"assimilate {path}: it has no launcher for {system}",
            detail="it can become an executable of: " + (", ".join(ape.elf_headers) or "nothing"),
            reason=ApeReason.NO_HEADER,
        )
    if out is None:
        _write_in_place(path, header)
    else:
        _write_copy(path, out, header)
    return Assimilated(out or path, system)


def _write_in_place(path: Path, header: bytes) -> None:
    try:
        with path.open("r+b") as stream:
            stream.write(header)
    except OSError as error:
        raise ApeError(f"assimilate {path}: {error.strerror}", reason=ApeReason.INPUT) from error


def _write_copy(path: Path, out: Path, header: bytes) -> None:
    with replace_file(out, mode=0o755, what="assimilate") as to, content.open_input(path, "APE") as stream:
        for chunk in content.read_chunks(stream):
            to.write(chunk)
        to.seek(0)
        to.write(header)
