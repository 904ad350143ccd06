"""Taking one slice or zip entry out of an APE, checked against its hash."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape import container
from mmojo_forge.ape.container import Container
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.replace_file import replace_file


@dataclass(frozen=True, slots=True)
class Extracted:
    """What `extract` wrote."""

    path: Path
    entry: str
    size: int
    sha256: str


def extract(path: Path, name: str, out: Path) -> Extracted:
    """Writes the slice or the zip entry called `name` to `out`; slices are executable."""
    ape = container.read_container(path)
    entry, expected, mode = _find(ape, name)
    with replace_file(out, mode=mode, what="extract") as stream, zipfile.ZipFile(path) as archive:
        sha256 = container.read_entry(archive, archive.getinfo(entry), path, stream)
        if expected is not None and sha256 != expected:
            raise ApeError(
                f"{path}: altered: {entry} has SHA-256 {sha256}, expected {expected}", reason=ApeReason.ALTERED
            )
        size = stream.tell()
    return Extracted(out, entry, size, sha256)


def _find(ape: Container, name: str) -> tuple[str, str | None, int]:
    """The entry that `name` means, its hash if the manifest knows it, and its mode."""
    for record in ape.slices:
        if name in {record.name, record.entry}:
            return record.entry, record.sha256, 0o755
    for entry in ape.entries:
        if entry.name == name:
            return name, None, 0o755 if entry.mode & 0o100 else 0o644
    raise ApeError(
        f"{ape.path}: no slice or entry {name!r}",
        detail="slices: " + ", ".join(record.name for record in ape.slices),
        reason=ApeReason.NO_ENTRY,
    )
