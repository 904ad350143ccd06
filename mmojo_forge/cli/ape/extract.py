"""`forge ape extract FILE ENTRY DEST`: take out one slice or file, or all of them.

`forge ape assimilate FILE DEST`: a copy that is a native program of one system.
"""

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
    """Write a slice (by its name) or any zip ENTRY of FILE to DESTINATION; each is checked against its hash."""
    if folder is not None:
        if entry is not None:
            raise click.UsageError("--all excludes ENTRY.")
        made = extraction.extract_all(file, folder)
    elif entry is None or destination is None:
        raise click.UsageError("Name an ENTRY and a DESTINATION, or give --all FOLDER.")
    else:
        made = [extraction.extract(file, entry, destination)]
    if as_json:
        rows = [{"entry": one.entry, "path": str(one.path), "size": one.size, "sha256": one.sha256} for one in made]
        click.echo(json.dumps({"schema": 1, "files": rows}))
    elif folder is not None:
        click.echo(
            f"{console.plural(len(made), 'file')}, {console.format_size(sum(one.size for one in made))}", err=True
        )


@click.command("assimilate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--system", default="linux-x86_64", show_default=True, help="Which system it is for.")
@click.option("--level", default="", help="Which CPU level (default: the one that most machines can run).")
@click.option(
    "--in-header", is_flag=True, help="Linux only: keep all of FILE, and all its levels, behind an ELF header."
)
@json_option()
def assimilate(file: Path, destination: Path, system: str, level: str, in_header: bool, as_json: bool) -> None:
    """Write a copy of FILE that is a native program of one system: nothing is unpacked when it starts.

    It has the files of FILE at its end; for macOS, where a signed program must end where it ends, they lie beside it.
    With --in-header it is FILE with another beginning: a bare execve, a container or a service manager starts it, and
    it still takes the slice that is best for the machine. FILE itself is left alone.
    """
    if in_header:
        if level:
            raise click.UsageError("--in-header excludes --level: all levels stay.")
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
        click.echo(f"hand on {place} with it: {console.plural(len(taken.beside), 'file')}", err=True)


def _print(*, slice: str | None, path: Path, size: int, beside: tuple[str, ...]) -> None:
    """Schema 1: `slice` is null where all of them stay; `beside` are the names of files in the support folder."""
    click.echo(json.dumps({"schema": 1, "slice": slice, "path": str(path), "size": size, "beside": list(beside)}))
