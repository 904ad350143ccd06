"""`forge store …`: where things lie, whether they are whole; what is kept, and how to keep less of it."""

from __future__ import annotations

import click

from mmojo_forge.cli import cmd_store_gc, cmd_store_repair, cmd_store_source, cmd_store_transfer
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import target_path


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
@click.pass_obj
def path(context: Context, target: str | None) -> None:
    """Print where the store lies, or where TARGET lies in it if it is built."""
    print(target_path(context.workspace, target, context.store) if target else context.workspace.store)
