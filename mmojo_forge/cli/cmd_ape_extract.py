"""`forge ape extract FILE ENTRY DEST`: take out one slice or file, or all of them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.ape import extract as extraction
from mmojo_forge.cli import units


@click.command("extract")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("entry", required=False)
@click.argument("destination", required=False, type=click.Path(path_type=Path))
@click.option("--all", "folder", type=click.Path(path_type=Path), help="Everything, into this new or empty folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: Path, entry: str | None, destination: Path | None, folder: Path | None, as_json: bool) -> None:
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
        print(json.dumps({"schema": 1, "files": rows}))
    elif folder is not None:
        click.echo(f"{units.plural(len(made), 'file')}, {units.size(sum(one.size for one in made))}", err=True)
