"""`forge ape extract` takes slices and files out of a program; `forge ape assimilate` writes a native copy of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.package import extract as extraction


@click.command("extract")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("entry", required=False)
@click.argument("destination", required=False, type=click.Path(path_type=Path))
@click.option("--all", "folder", type=click.Path(path_type=Path), help="Everything, into this new or empty folder.")
@json_option()
def extract(file: Path, entry: str | None, destination: Path | None, folder: Path | None, as_json: bool) -> None:
    """Write ENTRY of FILE to DESTINATION, after checking it against its hash.

    ENTRY is the name of a slice or of a zip entry, as `forge ape inspect FILE` lists them.
    """
    if folder is not None:
        if entry is not None:
            raise click.UsageError("--all excludes ENTRY.")
        made = extraction.extract_all(file, folder)
    elif entry is None or destination is None:
        raise click.UsageError("Name an ENTRY and a DESTINATION, or give --all FOLDER.")
    else:
        made = [extraction.extract(file, entry, destination)]
    if as_json:
        rows = [
            {"entry": part.entry, "path": str(part.path), "size": part.size, "sha256": part.sha256} for part in made
        ]
        click.echo(json.dumps({"schema": 1, "files": rows}))
    elif folder is not None:
        click.echo(
            f"{console.plural(len(made), 'file')}, {console.format_size(sum(part.size for part in made))}", err=True
        )


@click.command("assimilate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--system", default="linux-x86_64", show_default=True, help="The system it is for.")
@click.option("--level", default="", help="The CPU level (default: the one that most machines can run).")
@click.option(
    "--in-header", is_flag=True, help="Linux only: put an ELF header before all of FILE, with all CPU levels."
)
@json_option()
def assimilate(file: Path, destination: Path, system: str, level: str, in_header: bool, as_json: bool) -> None:
    """Write a copy of FILE that is a native program of one system, and unpacks nothing when it starts.

    The copy contains one slice and the files of FILE. For macOS the files lie beside it, because nothing may follow
    the end of a signed program.

    With --in-header, the copy is FILE with another beginning. Containers, service managers and a bare execve can start
    it, and it still picks the best slice for the machine.
    """
    if in_header:
        if level:
            raise click.UsageError("--in-header excludes --level: it keeps all levels.")
        extraction.assimilate(file, system, destination)
        if as_json:
            _print(slice=None, path=destination, size=destination.stat().st_size, beside=())
        return
    taken = extraction.take_slice(file, system, destination, level=level)
    if as_json:
        _print(slice=taken.slice, path=taken.path, size=taken.size, beside=taken.beside)
        return
    click.echo(f"{taken.slice}: {console.format_size(taken.size)}", err=True)
    if taken.beside:
        place = destination.parent / extraction.SUPPORT
        click.echo(f"ship {place} with it: {console.plural(len(taken.beside), 'file')}", err=True)


def _print(*, slice: str | None, path: Path, size: int, beside: tuple[str, ...]) -> None:
    """Print schema 1: `slice` is null if all slices stay; `beside` names the files in the support folder."""
    click.echo(json.dumps({"schema": 1, "slice": slice, "path": str(path), "size": size, "beside": list(beside)}))
