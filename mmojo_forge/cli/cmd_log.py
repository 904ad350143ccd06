"""`forge log TARGET`: the log of its last build."""

from __future__ import annotations

import sys

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import open_log


@click.command("log")
@click.argument("target")
@click.pass_obj
def command(context: Context, target: str) -> None:
    """Print the log of the last build of TARGET, or of any node by its name, failed ones included."""
    with open_log(context.workspace, target, context.store, context.places) as log:
        while chunk := log.read(1 << 16):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
