"""`forge lock`: write forge.lock; `forge lock --check`: say how it differs from what the recipes declare."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.engine.locking import Locker, check_lock
from mmojo_forge.errors import ExitCode


@click.command("lock")
@click.option("--check", is_flag=True, help="Change nothing; exit 2 if something is missing, stale or unused.")
@click.option("--update", "names", multiple=True, metavar="NAME", help="Resolve this pin or userland anew.")
@click.option("--json", "as_json", is_flag=True, help="With --check: one JSON object.")
@click.pass_context
def command(click_context: click.Context, check: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Pin every source that a recipe declares, and expect the outputs that reproducible targets have here."""
    context: Context = click_context.obj
    if check:
        click_context.exit(_check(context, as_json=as_json))
    locker = Locker(context.workspace, context.store, context.fetcher(), lambda line: click.echo(line, err=True))
    lock = locker.update(names)
    changed = context.workspace.write_lock(lock)
    state = "written" if changed else "up to date"
    pins = len(lock.sources) + sum(len(userland.closure) for userland in lock.userlands.values())
    click.echo(f"forge.lock {state}: {pins} pins, {len(lock.outputs)} expected outputs", err=True)


def _check(context: Context, *, as_json: bool) -> ExitCode:
    report = check_lock(context.workspace)
    if as_json:
        fields = {"missing": report.missing, "stale": report.stale, "unused": report.unused}
        print(json.dumps({"schema": 1, **fields}))
    else:
        for kind, names in (("missing", report.missing), ("stale", report.stale), ("unused", report.unused)):
            for name in names:
                print(f"{kind}: {name}")
        click.echo("forge.lock is complete" if report.clean else "run `forge lock` to mend it", err=True)
    return ExitCode.DONE if report.clean else ExitCode.INPUT_ERROR
