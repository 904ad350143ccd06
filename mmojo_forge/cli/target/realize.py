"""`forge realize TARGET…` builds, downloads or finds targets; `forge plan TARGET…` shows what that would do.

`realize` prints the paths of the results on stdout and its progress on stderr, and makes links in out/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import show_results
from mmojo_forge.cli.options import (
    cache_option,
    jobs_option,
    json_option,
    no_substitute_option,
    quiet_option,
    set_option,
)
from mmojo_forge.cli.progress import plan_line
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.plan import Action, Plan, Step
from mmojo_forge.engine.realise.run import plan_request, realise_request
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request


@click.command("realize")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@set_option
@jobs_option
@click.option(
    "-k", "--keep-going", is_flag=True, help="After a failure, go on with what does not need the failed node."
)
@click.option("--no-link", is_flag=True, help="Make no link in out/; `forge store gc` may then remove the result.")
@click.option("--substitute-only", is_flag=True, help="Build nothing: download from caches, or fail.")
@no_substitute_option
@cache_option
@quiet_option
@json_option("Print progress as JSON events, the result as one JSON object.")
@click.pass_obj
def realize(
    session: Session,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    jobs: int | None,
    keep_going: bool,
    no_link: bool,
    substitute_only: bool,
    no_substitute: bool,
    caches: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Build, download or find each TARGET, and print its path.

    forge links the result as out/TARGET. Progress goes to stderr.
    """
    if no_substitute and (substitute_only or caches):
        raise click.UsageError("--no-substitute excludes --substitute-only and --cache.")
    run_settings = session.settings(jobs=jobs, keep_going=keep_going, substitute_only=substitute_only)
    reporter = make_reporter(run_settings.jobs, as_json=as_json, quiet=quiet)
    request = Request.parse(targets, settings)
    services = session.services(reporter, caches=None if no_substitute else caches)
    results = realise_request(session.workspace, request, services, run_settings, link=not no_link)
    show_results(results, as_json=as_json)


_MANY_FETCHES = 200
_SHOWN_FETCHES = 10


@click.command("plan")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@set_option
@no_substitute_option
@cache_option
@json_option("Print the plan as one JSON object.")
@click.pass_obj
def plan(
    session: Session,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    no_substitute: bool,
    caches: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what `forge realize TARGET…` would fetch, download and build, in order.

    Times are those of earlier builds.
    """
    reporter = make_reporter(1, as_json=as_json)
    services = session.services(reporter, caches=None if no_substitute else caches)
    plan = plan_request(session.workspace, Request.parse(targets, settings), services)
    if as_json:
        click.echo(json.dumps(_document(plan)))
        return
    console.show_table(("action", "node", "size", "time", "note"), list(rows(plan.steps)))
    click.echo(plan_line(plan), err=True)


def rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """A row for each step. Of hundreds of fetches it shows the first few, and sums up the others in one row."""
    fetched = [step for step in steps if step.action is Action.FETCH]
    folded = fetched[_SHOWN_FETCHES:] if len(fetched) > _MANY_FETCHES else []
    hidden = {step.node.id for step in folded}
    for step in steps:
        if step.node.id not in hidden:
            yield _row(step)
        elif step is folded[0]:
            size = console.format_size(sum(hidden_step.size for hidden_step in folded))
            yield (Action.FETCH.value, f"{len(folded)} more", size, "", "--json lists all")


def _row(step: Step) -> tuple[str, ...]:
    return (
        step.action.value,
        step.node.name,
        console.format_size(step.size) if step.size else "",
        console.format_duration(step.seconds) if step.seconds is not None else "",
        "" if step.certain else "unless its inputs come out unchanged",
    )


def _document(plan: Plan) -> dict[str, object]:
    steps = [
        {
            "action": step.action.value,
            "name": step.node.name,
            "id": step.node.id,
            "size": step.size,
            "seconds": step.seconds,
            "certain": step.certain,
        }
        for step in plan.steps
    ]
    return {"schema": 1, "steps": steps, "known": plan.known, "nodes": len(plan.graph.nodes)}
