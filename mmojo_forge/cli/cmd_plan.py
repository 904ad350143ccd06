"""`forge plan TARGET…`: what `forge realize` would do, without doing it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import click

from mmojo_forge.cli import table, units
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.progress import plan_line
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.plan import Action, Plan, Step
from mmojo_forge.engine.run import plan_request
from mmojo_forge.engine.workspace import Request
from mmojo_forge.model.derivation import node_id

_MANY_FETCHES = 200
_SHOWN_FETCHES = 10


@click.command("plan")
@click.argument("targets", nargs=-1, required=True)
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--no-substitute", is_flag=True, help="Ask no cache.")
@click.option("--cache", "caches", multiple=True, metavar="NAME|URL", help="Ask this cache instead of those set.")
@click.option("--json", "as_json", is_flag=True, help="The plan as one JSON object.")
@click.pass_obj
def command(
    context: Context,
    targets: tuple[str, ...],
    settings: tuple[str, ...],
    no_substitute: bool,
    caches: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what would be downloaded, fetched and built for TARGET…, in order, with sizes and times from history."""
    reporter = make_reporter(1, as_json=as_json)
    world = context.world(reporter, caches=None if no_substitute else caches)
    plan = plan_request(context.workspace, Request.parse(targets, settings), world)
    if as_json:
        print(json.dumps(_document(plan)))
        return
    table.show(("action", "node", "size", "time", "note"), list(rows(plan.steps)))
    click.echo(plan_line(plan), err=True)


def rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """A row for each step; of hundreds of downloads only the first ones, and how much the others are."""
    fetched = [step for step in steps if step.action is Action.FETCH]
    folded = fetched[_SHOWN_FETCHES:] if len(fetched) > _MANY_FETCHES else []
    hidden = {node_id(step.node) for step in folded}
    for step in steps:
        if node_id(step.node) not in hidden:
            yield _row(step)
        elif step is folded[0]:
            size = units.size(sum(one.size for one in folded))
            yield (Action.FETCH.value, f"{len(folded)} more", size, "", "--json has all")


def _row(step: Step) -> tuple[str, ...]:
    return (
        step.action.value,
        step.node.name,
        units.size(step.size) if step.size else "",
        units.duration(step.seconds) if step.seconds is not None else "",
        "" if step.certain else "unless its inputs come out as before",
    )


def _document(plan: Plan) -> dict[str, object]:
    steps = [
        {
            "action": step.action.value,
            "name": step.node.name,
            "id": node_id(step.node),
            "size": step.size,
            "seconds": step.seconds,
            "certain": step.certain,
        }
        for step in plan.steps
    ]
    return {"schema": 1, "steps": steps, "known": plan.known, "nodes": len(plan.graph.nodes)}
