"""`forge list`: the targets of this workspace."""

from __future__ import annotations

import dataclasses
import json

import click

from mmojo_forge.cli import table, target_tables
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import TargetSummary, list_targets
from mmojo_forge.engine.targets import Target, survey


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--markdown", is_flag=True, help="A page with all that recipes say of each target: docs/targets.md.")
@click.pass_obj
def command(context: Context, as_json: bool, markdown: bool) -> None:
    """List all targets: whether each is built, its label, and what it is."""
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other.")
    if markdown:
        print(target_tables.page(survey(context.workspace, context.workspace.read_lock())), end="")
        return
    rows = list_targets(context.workspace, context.store)
    if as_json:
        told = {target.name: target for target in survey(context.workspace, context.workspace.read_lock())}
        print(json.dumps({"schema": 1, "targets": [_document(row, told[row.target]) for row in rows]}))
        return
    table.show(("target", "built", "label", "what"), [_cells(row) for row in rows])


def _cells(row: TargetSummary) -> tuple[str, ...]:
    return (row.target, "yes" if row.valid else "no", row.label, row.summary)


def _document(row: TargetSummary, told: Target) -> dict[str, object]:
    return {
        "target": row.target,
        "valid": row.valid,
        "label": row.label,
        "summary": row.summary,
        "error": row.error,
        "group": told.group,
        "recipe": told.recipe,
        "systems": told.systems,
        "host_facts": told.host_facts,
        "built_with": [dataclasses.asdict(tool) for tool in told.tools],
        "preset": dict(told.preset),
        "options": [dataclasses.asdict(option) for option in told.options],
        "ran": told.ran,
    }
