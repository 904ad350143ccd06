"""`forge doctor`: whether this machine can build, and if not, which command fixes it."""

from __future__ import annotations

import json
import os

import click

from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.query.doctor import DoctorFinding, examine
from mmojo_forge.engine.session import Session
from mmojo_forge.errors import ExitCode


@click.command("doctor")
@json_option()
@click.pass_context
def doctor(click_context: click.Context, as_json: bool) -> None:
    """Check everything that a build needs on this machine; exit 3 if builds are impossible."""
    session: Session = click_context.obj
    findings = examine(session.workspace.store)
    if as_json:
        rows = [
            {"subject": row.subject, "state": row.state, "reason": row.reason, "detail": row.detail, "fatal": row.fatal}
            for row in findings
        ]
        click.echo(json.dumps({"schema": 1, "findings": rows}))
    else:
        color = os.isatty(1) and not os.environ.get("NO_COLOR")
        for row in findings:
            _show(row, color=color)
    fatal = any(not row.ok and row.fatal for row in findings)
    click_context.exit(ExitCode.ENVIRONMENT_ERROR if fatal else ExitCode.DONE)


def _show(finding: DoctorFinding, *, color: bool) -> None:
    mark = "ok" if finding.ok else "PROBLEM" if finding.fatal else "note"
    if color:
        code = {"ok": 32, "PROBLEM": 31, "note": 33}[mark]
        mark = f"\033[{code}m{mark}\033[0m"
    click.echo(f"{mark}  {finding.subject}: {finding.state}")
    for line in finding.detail.splitlines():
        click.echo(f"      {line}")
