"""Taking slices and zip entries out of a program, each checked against its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.staging import Staging, replace_file
from mmojo_forge.ape.format.zip_directory import DirectoryEntry, check_path
from mmojo_forge.ape.read import container
from mmojo_forge.ape.read.container import Container


@dataclass(frozen=True, slots=True)
class Extracted:
    """What `extract` wrote."""

    path: Path
    entry: str
    size: int
    sha256: str


def extract(path: Path, name: str, out: Path) -> Extracted:
    """Writes the slice or the zip entry called `name` to `out`; programs are executable."""
    ape = container.read_container(path)
    entry = _find(ape, name)
    with replace_file(out, mode=_mode(entry), what="extract") as stream, content.open_input(path, "APE") as source:
        sha256 = _copy(source, ape, entry, stream)
    return Extracted(out, entry.name, entry.size, sha256)


def extract_all(path: Path, folder: Path) -> list[Extracted]:
    """Writes every entry below `folder`, which must be new or empty, and appears when all of it is there.

    Raises ApeError (`ape-name`) for an entry whose name leads elsewhere, before anything is written.
    """
    ape = container.read_container(path)
    found = [entry for entry in ape.entries if not entry.name.endswith("/")]
    for entry in found:
        _check_name(entry, path)
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ApeError(f"extract to {folder}: it exists and is no empty folder", reason=ApeReason.OUTPUT)
    made = []
    with Staging("extract") as staging, content.open_input(path, "APE") as source:
        temporary = staging.folder(folder)
        for entry in found:
            out = temporary / entry.name
            out.parent.mkdir(parents=True, exist_ok=True)
            hashes: list[str] = []

            def fill(stream: BinaryIO, entry: DirectoryEntry = entry, hashes: list[str] = hashes) -> None:
                hashes.append(_copy(source, ape, entry, stream))

            staging.write(out, fill, mode=_mode(entry))
            made.append(Extracted(folder / entry.name, entry.name, entry.size, hashes[0]))
        staging.commit()
    return made


def _check_name(entry: DirectoryEntry, path: Path) -> None:
    try:
        check_path(entry.name)
    except ApeError as error:
        raise ApeError(
            f"extract {path}: an entry is called {entry.name!r}, which is no place below a folder",
            detail="Nothing was written. `forge ape extract FILE ENTRY DEST` takes one out under another name.",
            reason=ApeReason.NAME,
        ) from error


def _copy(source: BinaryIO, ape: Container, entry: DirectoryEntry, stream: BinaryIO) -> str:
    sha256 = content.copy_entry(source, entry, str(ape.path), stream)
    known: dict[str, str] = {record.entry: record.sha256 for record in ape.slices}
    known |= {record.entry: record.sha256 for record in ape.launchers}
    expected = known.get(entry.name, sha256)
    if sha256 != expected:
        raise ApeError(
            f"{ape.path}: altered: {entry.name} has SHA-256 {sha256}, expected {expected}", reason=ApeReason.ALTERED
        )
    return sha256


def _mode(entry: DirectoryEntry) -> int:
    return 0o755 if entry.mode & 0o100 else 0o644


def _find(ape: Container, name: str) -> DirectoryEntry:
    """The entry that `name` means: its own name, or that of a slice."""
    found = {entry.name: entry for entry in ape.entries}
    wanted = f"slices/{name}" if any(record.name == name for record in ape.slices) else name
    if wanted not in found:
        raise ApeError(
            f"{ape.path}: no slice or entry {name!r}",
            detail="slices: " + (", ".join(record.name for record in ape.slices) or "none"),
            reason=ApeReason.NO_ENTRY,
        )
    return found[wanted]
