"""`forge store path|verify`: where things lie, and whether they are whole."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli import units
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.query import target_path
from mmojo_forge.errors import ExitCode


@click.group("store")
def command() -> None:
    """Look at the store."""


@command.command("path")
@click.argument("target", required=False)
@click.pass_obj
def path(context: Context, target: str | None) -> None:
    """Print where the store lies, or where TARGET lies in it if it is built."""
    print(target_path(context.workspace, target, context.store) if target else context.workspace.store)


@command.command("verify")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def verify(click_context: click.Context, as_json: bool) -> None:
    """Read everything and compare it with its hash; exit 1 if anything is not what it should be."""
    report = click_context.obj.store.verify()
    if as_json:
        findings = [{"reason": finding.reason, "path": str(finding.path)} for finding in report.findings]
        print(json.dumps({"schema": 1, "findings": findings, "blobs": report.blobs, "bytes": report.size}))
    else:
        for finding in report.findings:
            print(f"{finding.reason}: {finding.path}")
        amount = f"{units.plural(report.blobs, 'blob')}, {units.size(report.size)}"
        state = units.plural(len(report.findings), "finding") if report.findings else "all whole"
        click.echo(f"{amount}: {state}", err=True)
    click_context.exit(ExitCode.BUILD_FAILED if report.findings else ExitCode.DONE)
