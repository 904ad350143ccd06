"""`forge lock`: write forge.lock; `forge lock --check`: say how it differs from what the recipes declare."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli.context import Context
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.lock.lock import Locked, Locker, check_lock
from mmojo_forge.engine.lock.patches import affected_trees, try_patches
from mmojo_forge.errors import ExitCode


@click.command("lock")
@click.option("--check", is_flag=True, help="Change nothing; exit 2 if something is missing, stale or unused.")
@click.option(
    "--update",
    "names",
    multiple=True,
    metavar="NAME",
    help="Resolve anew this pin, userland or npm closure, or all of this package.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: one JSON object.")
@click.pass_context
def lock(click_context: click.Context, check: bool, names: tuple[str, ...], as_json: bool) -> None:
    """Pin every source that a recipe declares, and expect the outputs that reproducible targets have here.

    Patches that are for a source that changed are tried on it.
    """
    context: Context = click_context.obj
    if check:
        click_context.exit(_check(context, as_json=as_json))
    locker = Locker(context.workspace, context.store, context.fetcher(), lambda line: click.echo(line, err=True))
    locked = locker.update(names)
    lock = locked.lock
    changed = context.workspace.write_lock(lock)
    state = "written" if changed else "up to date"
    pins = sum(1 for _ in lock.pins())
    click.echo(f"forge.lock {state}: {pins} pins, {len(lock.outputs)} expected outputs", err=True)
    _try_patches(context, locked)


def _try_patches(context: Context, locked: Locked) -> None:
    trees = affected_trees(context.workspace, locked.lock, locked.resolved)
    if trees:
        click.echo(f"trying the patches of {', '.join(tree.target or tree.node.name for tree in trees)}", err=True)
        settings = context.settings()
        try_patches(trees, context.services(make_reporter(settings.jobs)), settings)


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
