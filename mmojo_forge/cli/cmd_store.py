"""`forge store …`: where things lie, whether they are whole; what is kept, and how to keep less of it."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli import cmd_store_gc, cmd_store_repair, cmd_store_source, cmd_store_transfer
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import target_path
from mmojo_forge.engine.workspace import Request


@click.group("store")
def command() -> None:
    """Look at the store, and look after it."""


for _part in (
    cmd_store_repair.verify,
    cmd_store_repair.repair,
    cmd_store_gc.gc,
    cmd_store_gc.roots,
    cmd_store_gc.du,
    cmd_store_transfer.export,
    cmd_store_transfer.import_,
    cmd_store_source.add,
):
    command.add_command(_part)


@command.command("path")
@click.argument("target", required=False)
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def path(context: Context, target: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Print where the store lies, or where TARGET lies in it if it is built."""
    request = Request.parse((target,) if target else (), settings)
    found = target_path(context.workspace, request, context.store) if target else context.workspace.store
    print(json.dumps({"path": str(found)}) if as_json else found)
