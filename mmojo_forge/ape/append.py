"""Adding assets to a linked APE: new entries take the directory's place and a new directory follows them.

Nothing before the old directory changes, so slices, launchers and the shell part need no relinking, and the same
assets give the same bytes as linking with them would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmojo_forge.ape import container
from mmojo_forge.ape.container import Container
from mmojo_forge.ape.directory import read_directory
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.spec import Asset
from mmojo_forge.ape.writer import EntryWriter, entry_of


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
    writer = EntryWriter(stream, [entry_of(entry) for entry in found.entries])
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
