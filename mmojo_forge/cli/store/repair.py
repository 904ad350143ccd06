"""`forge store verify` finds content that is not what its hash says; `forge store repair` restores it."""

from __future__ import annotations

import json
import os
import sys
import time

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option, quiet_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.query.repair import Remade, RepairReport, make_anew
from mmojo_forge.engine.session import Session
from mmojo_forge.errors import ExitCode


@click.command("verify")
@click.option("--repair", "mend", is_flag=True, help="Repair what it finds, like `forge store repair`.")
@json_option()
@click.pass_context
def verify(click_context: click.Context, mend: bool, as_json: bool) -> None:
    """Read everything in the store and compare it with its hash; exit 1 if anything differs."""
    if mend:
        click_context.exit(_repair(click_context.obj, quiet=False, as_json=as_json))
    with Meter("verifying", sys.stderr) as meter:
        report = click_context.obj.store.maintenance.verify(on_progress=meter, on_wait=meter.wait)
    if as_json:
        findings = [{"reason": finding.reason, "path": str(finding.path)} for finding in report.findings]
        click.echo(json.dumps({"schema": 1, "findings": findings, "blobs": report.blobs, "bytes": report.size}))
    else:
        for finding in report.findings:
            click.echo(f"{finding.reason}: {finding.path}")
        amount = f"{console.plural(report.blobs, 'blob')}, {console.format_size(report.size)}"
        state = console.plural(len(report.findings), "finding") if report.findings else "all intact"
        click.echo(f"{amount}: {state}", err=True)
        if report.findings:
            click.echo("`forge store repair` repairs what it can, and fetches or builds the rest again", err=True)
    click_context.exit(ExitCode.BUILD_FAILED if report.findings else ExitCode.DONE)


@click.command("repair")
@quiet_option
@json_option()
@click.pass_context
def repair(click_context: click.Context, quiet: bool, as_json: bool) -> None:
    """Verify the store, then restore what is damaged; exit 1 if something is lost.

    forge restores content from copies in the store, from caches, by fetching it, or by building it.
    """
    click_context.exit(_repair(click_context.obj, quiet=quiet, as_json=as_json))


def _repair(session: Session, *, quiet: bool, as_json: bool) -> ExitCode:
    settings = session.settings()
    with Meter("verifying", sys.stderr) as meter:
        mended = session.store.repair(on_progress=meter, on_wait=meter.wait)
    reporter = make_reporter(
        as_json=False,
        quiet=quiet or as_json,
        color=not os.environ.get("NO_COLOR"),
        clock=time.time,
        cores=settings.jobs,
        stream=sys.stderr,
    )
    report = make_anew(session.workspace, mended, session.services(reporter), settings)
    if as_json:
        click.echo(json.dumps(_document(report)))
    else:
        _show(report)
    return ExitCode.DONE if report.whole else ExitCode.BUILD_FAILED


def _show(report: RepairReport) -> None:
    for finding, outcome in report.mended.outcomes.items():
        click.echo(f"{outcome.value}: {finding.reason} {finding.path}")
    for remade in report.remade:
        click.echo(_line(remade))
    count = len(report.mended.outcomes)
    lost = sum(bool(remade.failure) for remade in report.remade)
    click.echo(
        "nothing is damaged"
        if not count
        else f"{console.plural(count, 'finding')}; "
        + (f"{console.plural(lost, 'tree')} could not be restored" if lost else "everything is intact again"),
        err=True,
    )
    for path in report.mended.set_aside:
        click.echo(f"set aside: {path}", err=True)


def _line(remade: Remade) -> str:
    name = remade.name or remade.tree
    used = f", used by {', '.join(remade.targets)}" if remade.targets else ""
    if not remade.failure:
        return f"restored: {name}{used}"
    return f"lost ({remade.failure}): {name} ({remade.tree}){used}; forge makes it again when it is needed"


def _document(report: RepairReport) -> dict[str, object]:
    return {
        "schema": 1,
        "whole": report.whole,
        "findings": [
            {"reason": finding.reason, "path": finding.path, "outcome": outcome.value}
            for finding, outcome in report.mended.outcomes.items()
        ],
        "set_aside": report.mended.set_aside,
        "trees": [
            {
                "tree": remade.tree,
                "name": remade.name,
                "targets": list(remade.targets),
                "failure": remade.failure or None,
            }
            for remade in report.remade
        ],
    }
