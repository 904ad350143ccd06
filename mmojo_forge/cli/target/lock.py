"""`forge lock`: write forge.lock, or forge.outputs with `--outputs`; `--check` compares both with the recipes."""

from __future__ import annotations

import json

import click

from mmojo_forge.cli.options import json_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.lock.lock import Locked, Locker, LockReport, check_lock
from mmojo_forge.engine.lock.outputs import update_outputs
from mmojo_forge.engine.lock.patches import affected_trees, try_patches
from mmojo_forge.engine.session import Session
from mmojo_forge.errors import ExitCode


@click.command("lock")
@click.argument("targets", nargs=-1, metavar="[TARGET…]")
@click.option(
    "--check", is_flag=True, help="Change nothing; exit 2 if a pin is missing, stale or unused, or an entry is wrong."
)
@click.option(
    "--update",
    "names",
    multiple=True,
    metavar="NAME",
    help="Resolve this pin, userland or npm closure again, or all that this package declares.",
)
@click.option("--outputs", is_flag=True, help="Write forge.outputs for TARGET…, or for all targets that are built.")
@click.option("--accept", is_flag=True, help="With --outputs TARGET…: replace entries that expect another tree.")
@json_option("With --check or --outputs: print one JSON object.")
@click.pass_context
def lock(
    click_context: click.Context,
    targets: tuple[str, ...],
    check: bool,
    names: tuple[str, ...],
    outputs: bool,
    accept: bool,
    as_json: bool,
) -> None:
    """Pin every source that a recipe declares, in forge.lock.

    Where a source changed, forge tries its patches on the new one. With --outputs, forge writes into forge.outputs
    what it built reproducible targets to.
    """
    session: Session = click_context.obj
    if check + outputs + bool(names) > 1:
        raise click.UsageError("--check, --update and --outputs exclude each other.")
    if targets and not outputs:
        raise click.UsageError("TARGET needs --outputs. To name a pin, use --update.")
    if accept and not targets:
        raise click.UsageError("--accept needs --outputs TARGET…: name the targets to accept.")
    if check:
        click_context.exit(_check(session, as_json=as_json))
    if outputs:
        _write_outputs(session, targets, accept=accept, as_json=as_json)
        return
    locker = Locker(session.workspace, session.store, session.fetcher(), lambda line: click.echo(line, err=True))
    locked = locker.update(names)
    changed = session.workspace.write_lock(locked.lock)
    click.echo(f"forge.lock {_state(changed)}: {sum(1 for _ in locked.lock.pins())} pins", err=True)
    _try_patches(session, locked)


def _state(changed: bool) -> str:
    return "written" if changed else "up to date"


def _try_patches(session: Session, locked: Locked) -> None:
    trees = affected_trees(session.workspace, locked.lock, locked.resolved)
    if trees:
        click.echo(f"trying the patches of {', '.join(tree.target or tree.node.name for tree in trees)}", err=True)
        settings = session.settings()
        try_patches(trees, session.services(make_reporter(settings.jobs)), settings)


def _write_outputs(session: Session, targets: tuple[str, ...], *, accept: bool, as_json: bool) -> None:
    update = update_outputs(session.workspace, session.store, targets, accept=accept)
    fields = {
        "new": update.new,
        "changed": update.changed,
        "accepted": update.accepted,
        "dropped": update.dropped,
        "stale": update.stale,
    }
    if as_json:
        click.echo(json.dumps({"schema": 1, "written": update.written, **fields}))
        return
    _print_rows(fields)
    click.echo(f"forge.outputs {_state(update.written)}: {len(update.outputs)} expected outputs", err=True)
    if update.stale:
        click.echo(f"{len(update.stale)} of them are stale and kept: those targets are not built here", err=True)


def _check(session: Session, *, as_json: bool) -> ExitCode:
    report = check_lock(session.workspace, session.store)
    fields = {"missing": report.missing, "stale": report.stale, "unused": report.unused, "wrong": report.wrong}
    outputs = {"stale": report.outputs.stale, "unused": report.outputs.unused}
    if as_json:
        expectations = {f"{state}_outputs": names for state, names in outputs.items()}
        click.echo(json.dumps({"schema": 1, **fields, **expectations}))
    else:
        _print_rows(fields)
        _print_rows({f"{state} output": names for state, names in outputs.items()})
        click.echo(_advice(report), err=True)
    return ExitCode.DONE if report.clean else ExitCode.INPUT_ERROR


def _print_rows(fields: dict[str, tuple[str, ...]]) -> None:
    for state, names in fields.items():
        for name in names:
            click.echo(f"{state}: {name}")


def _advice(report: LockReport) -> str:
    lines = []
    if report.wrong:
        lines.append(
            "the wrong entries contradict the store: restore them from version control, "
            "or replace them with `forge lock --update NAME` or `forge lock --outputs --accept TARGET`"
        )
    if report.missing or report.stale or report.unused:
        lines.append("run `forge lock` to correct the pins")
    if report.clean:
        lines.append("forge.lock is complete")
    if report.outputs.stale or report.outputs.unused:
        lines.append("stale outputs are no error: `forge lock --outputs` replaces those that are built here")
    return "\n".join(lines)
