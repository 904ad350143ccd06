"""`forge ape inspect|extract|assimilate FILE`: look into one file that runs everywhere, and take it apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from mmojo_forge.ape import assimilate as assimilation
from mmojo_forge.ape import extract as extraction
from mmojo_forge.ape import inspect as inspection
from mmojo_forge.ape.container import Container
from mmojo_forge.cli import table, units

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("ape")
def command() -> None:
    """Look at an APE (one file for every machine), take it apart, make a native copy."""


@command.command("inspect")
@click.argument("file", type=_FILE)
@click.option("--no-verify", is_flag=True, help="Do not read the contents, only the directory and the headers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def inspect(file: Path, no_verify: bool, as_json: bool) -> None:
    """Show slices, offsets, levels, hashes and zip entries; every byte is checked against what was linked."""
    container = inspection.inspect(file, verify=not no_verify)
    if as_json:
        print(json.dumps(inspection.describe(container)))
        return
    state = "every byte as it was linked" if container.verified else "contents not checked"
    kind = f"assimilated for {container.assimilated}" if container.assimilated else "portable"
    print(f"{file}: {container.program}, {units.size(container.size)}, {kind}; {state}\n")
    slices = [
        (one.name, f"{one.offset:#x}", units.size(one.size), one.sha256[:16], " ".join(one.features) or "any")
        for one in container.slices
    ]
    table.show(("slice", "offset", "size", "sha256", "needs"), slices)
    print()
    table.show(("part", "offset", "size"), list(_parts(container)))
    print()
    entries = [
        (entry.name, f"{entry.offset:#x}", units.size(entry.size), "deflated" if entry.deflated else "stored")
        for entry in container.entries
    ]
    table.show(("zip entry", "offset", "size", "how"), entries)


def _parts(container: Container) -> Iterator[tuple[str, str, str]]:
    if container.pe:
        yield "Windows launcher (PE)", "0x0", "in the front"
    for launcher in container.launchers:
        yield f"{launcher.system} launcher (ELF)", f"{launcher.offset:#x}", units.size(launcher.size)


@command.command("extract")
@click.argument("file", type=_FILE)
@click.argument("entry")
@click.argument("destination", type=click.Path(path_type=Path))
def extract(file: Path, entry: str, destination: Path) -> None:
    """Write a slice (by its name) or any zip ENTRY to DESTINATION."""
    extraction.extract(file, entry, destination)


@command.command("assimilate")
@click.argument("file", type=_FILE)
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--system", default="linux-x86_64", show_default=True, help="Which ELF header to write.")
def assimilate(file: Path, destination: Path, system: str) -> None:
    """Write a copy of FILE that is a native Linux program: a bare execve, a container or a service manager starts it.

    FILE itself is left alone: what lies in out/ is a link into the store.
    """
    assimilation.assimilate(file, system, destination)
