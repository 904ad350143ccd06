"""What an APE holds, as values and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmojo_forge.ape import container
from mmojo_forge.ape.container import Container
from mmojo_forge.ape.directory import Entry


def inspect(path: Path, *, verify: bool = False) -> Container:
    """What the APE at `path` holds. `verify` reads all of it and checks every hash and CRC."""
    return container.read_container(path, verify=verify)


def describe(ape: Container) -> dict[str, Any]:
    """`ape` as JSON: schema 1 of `forge ape inspect --json`.

    schema, file, size, program, verified; kind (ape, elf, pe) and system (of a native program, else empty);
    assimilated (a system or null); slices and launchers (offset, size, sha256, ...); elf_headers (systems with a
    printf'ed header); pe (entry, subsystem, sections, signature) or null; entries. The command adds what
    `engine/package_report.py` finds in them.
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


def _describe_entry(entry: Entry) -> dict[str, Any]:
    names = ("name", "offset", "packed", "size", "deflated", "mappable", "mode")
    return {**{name: getattr(entry, name) for name in names}, "crc": f"{entry.crc:08x}"}
