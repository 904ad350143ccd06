"""`forge store add-source FILE`: give forge a source that it cannot download."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mmojo_forge.cli import units
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.hand_source import add_source


@click.command("add-source")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="What it is in forge.lock (default: found by its content).")
@click.option("--pin", is_flag=True, help="Believe it: forge.lock pins NAME to this file from now on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def add(context: Context, file: Path, name: str, pin: bool, as_json: bool) -> None:
    """Take FILE into the store as a source that forge.lock pins, after a look at its hash.

    For what is brought by hand: a model of one's own, a download that needs a login, a machine without a network.
    """
    added = add_source(context.workspace, context.store, file, name=name, pin=pin)
    if as_json:
        row = {"name": added.pin.name, "sha256": added.pin.sha256, "size": added.pin.size, "pinned": added.pinned}
        print(json.dumps({"schema": 1, **row, **({"unwritten": added.unwritten} if added.unwritten else {})}))
        return
    print(f"{added.pin.name}: {units.size(added.pin.size)}, SHA-256 {added.pin.sha256}")
    if added.pinned:
        click.echo("forge.lock written; commit it, so that everybody has the same", err=True)
    if added.unwritten:
        click.echo(f"warning: {added.unwritten}\nThis store knows the file, and builds use it.", err=True)
