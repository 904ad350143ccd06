"""Reading an APE: what it holds, whether it is whole, whether it is what was linked."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mmojo_forge.ape import content, elf, executable, manifest, pe, script
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.manifest import LauncherRecord, Manifest, SliceRecord
from mmojo_forge.ape.pe import PeImage

_APE_MAGICS: Final = (b"MZqFpD='", b"jartsr='", b"APEDBG='")
_LOCAL_HEADER: Final = 30


@dataclass(frozen=True, slots=True)
class Entry:
    """One zip entry. `offset` is where its data lies in the file."""

    name: str
    offset: int
    packed: int
    size: int
    deflated: bool
    mode: int


@dataclass(frozen=True, slots=True)
class Container:
    """An APE whose directory, manifest and headers agree. With `verified`, so do all its bytes.

    `assimilated` names the system whose ELF header stands at offset 0 instead of the magic.
    """

    path: Path
    size: int
    program: str
    assimilated: str | None
    slices: tuple[SliceRecord, ...]
    launchers: tuple[LauncherRecord, ...]
    entries: tuple[Entry, ...]
    elf_headers: tuple[str, ...]
    pe: PeImage | None
    verified: bool


def read_container(path: Path, *, verify: bool = False) -> Container:
    """What the APE at `path` holds; fails for a file that is no APE, cut short, or not what was linked."""
    with content.open_input(path, "APE") as stream:
        head = stream.read(executable.HEAD)
        is_ape = head.startswith(_APE_MAGICS)
        if not is_ape and not head.startswith(b"\x7fELF"):
            raise ApeError(f"{path}: not an APE", reason=ApeReason.NOT_AN_APE)
        size = stream.seek(0, 2)
        with _open_zip(stream, path, is_ape=is_ape) as archive:
            facts = _read_manifest(archive, path, is_ape=is_ape)
            entries = tuple(_read_entry(stream, info, path) for info in archive.infolist())
            _check_places(facts, entries, path)
            headers = _check_headers(head, facts, path)
            if verify:
                _verify(stream, archive, facts, path)
    return Container(
        path=path,
        size=size,
        program=facts.program,
        assimilated=None if is_ape else f"linux-{elf.name_machine(head, str(path), ApeReason.NOT_AN_APE)}",
        slices=facts.slices,
        launchers=facts.launchers,
        entries=entries,
        elf_headers=headers,
        pe=_read_pe(head, path),
        verified=verify,
    )


def _open_zip(stream: BinaryIO, path: Path, *, is_ape: bool) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        if not is_ape:
            raise ApeError(f"{path}: not an APE", reason=ApeReason.NOT_AN_APE) from error
        raise ApeError(
            f"{path}: truncated: no zip directory at its end ({error})",
            detail="the file was cut short or something was written behind its end; get it again",
            reason=ApeReason.TRUNCATED,
        ) from error


def _read_manifest(archive: zipfile.ZipFile, path: Path, *, is_ape: bool) -> Manifest:
    if manifest.NAME not in archive.NameToInfo:
        if not is_ape:
            raise ApeError(f"{path}: not an APE", reason=ApeReason.NOT_AN_APE)
        raise ApeError(f"{path}: an APE, but not one that forge linked", reason=ApeReason.FOREIGN)
    try:
        data = archive.read(manifest.NAME)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ApeError(f"{path}: altered: {manifest.NAME}: {error}", reason=ApeReason.ALTERED) from error
    return manifest.parse_manifest(data, str(path))


def _read_entry(stream: BinaryIO, info: zipfile.ZipInfo, path: Path) -> Entry:
    stream.seek(info.header_offset)
    local = stream.read(_LOCAL_HEADER)
    if len(local) != _LOCAL_HEADER or not local.startswith(b"PK\3\4"):
        raise ApeError(f"{path}: altered: no local header of {info.filename}", reason=ApeReason.ALTERED)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return Entry(
        name=info.filename,
        offset=info.header_offset + _LOCAL_HEADER + names,
        packed=info.compress_size,
        size=info.file_size,
        deflated=info.compress_type == zipfile.ZIP_DEFLATED,
        mode=info.external_attr >> 16 & 0o777,
    )


def _check_places(facts: Manifest, entries: tuple[Entry, ...], path: Path) -> None:
    """The zip entries of slices and launchers must lie where the manifest, so the shell part, looks for them."""
    by_name = {entry.name: entry for entry in entries}
    for record in facts.records():
        entry = by_name.get(record.entry)
        if entry is None or (entry.offset, entry.size, entry.deflated) != (record.offset, record.size, False):
            raise ApeError(
                f"{path}: altered: {record.entry} is not where the manifest says",
                detail="a zip tool rewrote the file; link it again, or add assets with `append`",
                reason=ApeReason.ALTERED,
            )


def _check_headers(head: bytes, facts: Manifest, path: Path) -> tuple[str, ...]:
    """The systems of the printf'ed ELF headers, each of which must have its launcher."""
    headers = script.decode_headers(head[: script.LOADER_WINDOW])
    found = tuple(f"linux-{elf.name_machine(one, str(path), ApeReason.ALTERED)}" for one in headers)
    if found != tuple(launcher.system for launcher in facts.launchers):
        raise ApeError(f"{path}: altered: its ELF headers do not fit its launchers", reason=ApeReason.ALTERED)
    starts = [script.encode_start(has_pe=head[64:68] == b"PE\0\0"), *headers]
    if head[: manifest.MUTABLE] not in starts:
        raise ApeError(f"{path}: altered: its first {manifest.MUTABLE} bytes", reason=ApeReason.ALTERED)
    return found


def _read_pe(head: bytes, path: Path) -> PeImage | None:
    if head[pe.HEADERS_AT : pe.HEADERS_AT + 4] != b"PE\0\0":
        return None
    # An assimilated file has lost its DOS header, and only that.
    start = script.encode_start(has_pe=True)
    return pe.parse_pe(start + head[len(start) :], str(path), ApeReason.ALTERED)


def _verify(stream: BinaryIO, archive: zipfile.ZipFile, facts: Manifest, path: Path) -> None:
    stream.seek(manifest.MUTABLE)
    front = content.measure_stream(stream, facts.front_size - manifest.MUTABLE)
    if front.sha256 != facts.front_sha256:
        raise ApeError(f"{path}: altered: its headers or shell part", reason=ApeReason.ALTERED)
    for record in facts.records():
        stream.seek(record.offset)
        found = content.measure_stream(stream, record.size)
        if found.sha256 != record.sha256:
            raise ApeError(
                f"{path}: altered: {record.entry} has SHA-256 {found.sha256}, expected {record.sha256}",
                reason=ApeReason.ALTERED,
            )
    for info in archive.infolist():
        read_entry(archive, info, path)


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, to: BinaryIO | None = None) -> str:
    """Reads an entry to its end, which checks its CRC, into `to` if given; returns its SHA-256."""
    sha256 = hashlib.sha256()
    try:
        with archive.open(info) as source:
            while chunk := source.read(content.CHUNK):
                sha256.update(chunk)
                if to is not None:
                    to.write(chunk)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ApeError(f"{path}: altered: {info.filename}: {error}", reason=ApeReason.ALTERED) from error
    return sha256.hexdigest()
