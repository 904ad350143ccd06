"""Reading an APE: what it holds, whether it is whole, whether it is what was linked; as values and as JSON."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.format import elf, manifest, script
from mmojo_forge.ape.format.manifest import LauncherRecord, Manifest, SliceRecord
from mmojo_forge.ape.format.pe import PeImage, check_signed_headers
from mmojo_forge.ape.format.zip_directory import DirectoryEntry
from mmojo_forge.ape.read.program import CORE, Program, ProgramKind, read_program

# Shell part, launcher headers and data: some tens of kilobytes.
_MAX_FRONT: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Container:
    """A program whose zip directory, manifest and headers agree. With `verified`, so do all its bytes.

    `assimilated` names the system whose ELF header stands at offset 0 of an APE instead of the magic. A native
    executable with a zip has no slices; `system` is its own then, and `program` is empty.
    """

    path: Path
    size: int
    program: str
    assimilated: str | None
    slices: tuple[SliceRecord, ...]
    launchers: tuple[LauncherRecord, ...]
    entries: tuple[DirectoryEntry, ...]
    elf_headers: tuple[str, ...]
    pe: PeImage | None
    verified: bool
    kind: ProgramKind = ProgramKind.APE
    system: str = ""


def read_container(path: Path, *, verify: bool = False) -> Container:
    """What the APE, or the executable with a zip, at `path` holds; fails for other files, and for one that is cut
    short, not what was linked, or that was signed so that no shell starts it (`ape-pe-quote`)."""
    found = _read(path)
    if found.directory is None:
        raise ApeError(f"{path}: not an APE", reason=ApeReason.NOT_AN_APE)
    if found.kind is ProgramKind.APE and found.facts is None:
        raise ApeError(f"{path}: an APE, but not one that forge linked", reason=ApeReason.FOREIGN)
    headers: tuple[str, ...] = ()
    if found.facts is not None:
        check_program(found)
        if found.pe is not None:
            check_signed_headers(found.pe, str(found.path))
        headers = tuple(launcher.system for launcher in found.facts.launchers)
    if verify:
        _verify(found)
    facts = found.facts
    return Container(
        path=path,
        size=found.size,
        program=facts.program if facts else "",
        assimilated=found.system if facts and found.system else None,
        slices=facts.slices if facts else (),
        launchers=facts.launchers if facts else (),
        entries=found.directory.entries,
        elf_headers=headers,
        pe=found.pe,
        verified=verify,
        kind=found.kind,
        system=found.system,
    )


def _read(path: Path) -> Program:
    try:
        return read_program(path, "APE")
    except ApeError as error:
        if error.reason == ApeReason.NOT_A_PROGRAM:
            raise ApeError(f"{path}: not an APE", reason=ApeReason.NOT_AN_APE) from error
        raise


def check_program(program: Program) -> None:
    """Refuses an APE whose entries or headers are not those that its manifest names."""
    assert program.facts is not None and program.directory is not None
    _check_places(program.facts, program.directory.entries, program.path)
    _check_headers(program.head, program.facts, program.path)
    if program.pe is None and program.head.startswith(b"MZ"):
        raise ApeError(f"{program.path}: altered: its PE headers", reason=ApeReason.ALTERED)


def _check_places(facts: Manifest, found: tuple[DirectoryEntry, ...], path: Path) -> None:
    """The zip entries of slices and launchers must lie where the manifest, so the shell part, looks for them."""
    by_name = {entry.name: entry for entry in found}
    for record in facts.records():
        entry = by_name.get(record.entry)
        if entry is None or (entry.offset, entry.size, entry.deflated) != (record.offset, record.size, False):
            raise ApeError(
                f"{path}: altered: {record.entry} is not where the manifest says",
                detail="a zip tool rewrote the file; link it again, or add assets with `forge package`",
                reason=ApeReason.ALTERED,
            )
    end = max((entry.offset + entry.packed for entry in found if entry.name.startswith(CORE)), default=0)
    for entry in found:
        if entry.head < end and not entry.name.startswith(CORE):
            raise ApeError(f"{path}: altered: {entry.name} lies among the slices", reason=ApeReason.ALTERED)


def _check_headers(head: bytes, facts: Manifest, path: Path) -> None:
    """Each printf'ed ELF header must have its launcher."""
    headers = script.decode_headers(head[: script.LOADER_WINDOW])
    found = tuple(f"linux-{elf.name_machine(header, str(path), ApeReason.ALTERED)}" for header in headers)
    if found != tuple(launcher.system for launcher in facts.launchers):
        raise ApeError(f"{path}: altered: its ELF headers do not fit its launchers", reason=ApeReason.ALTERED)
    starts = [script.encode_start(has_pe=head[64:68] == b"PE\0\0"), *headers]
    if head[: manifest.MUTABLE] not in starts:
        raise ApeError(f"{path}: altered: its first {manifest.MUTABLE} bytes", reason=ApeReason.ALTERED)


def _verify(program: Program) -> None:
    assert program.directory is not None
    if program.facts is not None:
        verify_program(program)
    with content.open_input(program.path, "APE") as stream:
        for entry in program.directory.entries:
            content.copy_entry(stream, entry, str(program.path))


def verify_program(program: Program) -> None:
    """Refuses an APE whose front, launchers or slices are not what was linked; its assets are not read."""
    facts, path = program.facts, program.path
    assert facts is not None
    with content.open_input(path, "APE") as stream:
        if _hash_front(stream, program, facts) != facts.front_sha256:
            raise ApeError(f"{path}: altered: its headers or shell part", reason=ApeReason.ALTERED)
        for record in facts.records():
            stream.seek(record.offset)
            found = content.measure_stream(stream, record.size)
            if found.sha256 != record.sha256:
                raise ApeError(
                    f"{path}: altered: {record.entry} has SHA-256 {found.sha256}, expected {record.sha256}",
                    reason=ApeReason.ALTERED,
                )


def _hash_front(stream: BinaryIO, program: Program, facts: Manifest) -> str:
    """The hash of what follows the start, as it was before the file was signed: a signature needs no other change."""
    if not 0 <= facts.front_size <= _MAX_FRONT:
        return ""
    stream.seek(0)
    front = bytearray(stream.read(facts.front_size))
    for at, size in program.signed_fields():
        front[at : at + size] = bytes(size)
    return hashlib.sha256(front[manifest.MUTABLE :]).hexdigest()


def describe(ape: Container) -> dict[str, Any]:
    """`ape` as JSON: schema 1 of `forge ape inspect --json`.

    schema, file, size, program, verified; kind (ape, elf, pe) and system (of a native program, else empty);
    assimilated (a system or null); slices and launchers (offset, size, sha256, ...); elf_headers (systems with a
    printf'ed header); pe (entry, subsystem, sections, signature) or null; entries. The command adds what
    `engine/package/inspect.py` finds in them.
    """
    pe = ape.pe and {
        "entry": ape.pe.entry,
        "subsystem": ape.pe.subsystem,
        "sections": [asdict(section) for section in ape.pe.sections],
        "signature": ape.pe.signature and asdict(ape.pe.signature),
    }
    return {
        "schema": 1,
        "file": str(ape.path),
        "size": ape.size,
        "program": ape.program,
        "verified": ape.verified,
        "kind": str(ape.kind),
        "system": ape.system,
        "assimilated": ape.assimilated,
        "slices": [asdict(record) for record in ape.slices],
        "launchers": [asdict(record) for record in ape.launchers],
        "elf_headers": list(ape.elf_headers),
        "pe": pe,
        "entries": [_describe_entry(entry) for entry in ape.entries],
    }


def _describe_entry(entry: DirectoryEntry) -> dict[str, Any]:
    names = ("name", "offset", "packed", "size", "deflated", "mappable", "mode")
    return {**{name: getattr(entry, name) for name in names}, "crc": f"{entry.crc:08x}"}
