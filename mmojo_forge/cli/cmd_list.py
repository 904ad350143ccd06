"""`forge list`: the targets of this workspace."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli import table
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import TargetSummary, list_targets


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(context: Context, as_json: bool) -> None:
    """List all targets: whether each is built, its label, and what it is."""
    rows = list_targets(context.workspace, context.store)
    if as_json:
        print(json.dumps({"schema": 1, "targets": [_document(row) for row in rows]}))
        return
    table.show(("target", "built", "label", "what"), [_cells(row) for row in rows])


def _cells(row: TargetSummary) -> tuple[str, ...]:
    return (row.target, "yes" if row.valid else "no", row.label, row.summary)


def _document(row: TargetSummary) -> dict[str, object]:
    return {"target": row.target, "valid": row.valid, "label": row.label, "summary": row.summary, "error": row.error}
