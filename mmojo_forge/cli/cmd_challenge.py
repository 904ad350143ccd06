"""`forge challenge`, `forge cache challenge`: what the caches say beside what a rebuild gives."""

from __future__ import annotations

import json
import sys

import click

from mmojo_forge.cli import table
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.challenge import Answer, Challenge, challenge_request
from mmojo_forge.engine.workspace import Request
from mmojo_forge.errors import ExitCode

_SHOWN_DIGITS = 12


@click.command("challenge")
@click.argument("targets", nargs=-1, required=True)
@click.option("--from", "names", multiple=True, metavar="NAME|URL|FOLDER", help="Which caches, instead of those set.")
@click.option("--closure", is_flag=True, help="Also everything that TARGET… are built from, node by node.")
@click.option("--no-rebuild", is_flag=True, help="Compare with what this store has, without building anything.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Cores for the rebuild (default: all).")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def command(
    context: Context,
    targets: tuple[str, ...],
    names: tuple[str, ...],
    closure: bool,
    no_rebuild: bool,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Rebuild TARGET… and compare with what each cache says; exit code 1 if anybody says something else."""
    settings = context.settings(jobs=jobs)
    reporter = make_reporter(settings.jobs, as_json=as_json, quiet=quiet)
    found = challenge_request(
        context.workspace,
        Request.parse(targets),
        context.caches(names, reporter.warning),
        context.world(reporter, caches=names),
        settings,
        closure=closure,
        rebuild=not no_rebuild,
    )
    if as_json:
        print(json.dumps({"schema": 1, "challenges": [_document(one) for one in found]}))
    else:
        header = ("node", "asked", "builder", "verdict", "says", "differs in")
        table.show(header, [_row(one, answer) for one in found for answer in one.answers])
        _sum_up(found)
    return ExitCode.DONE if all(one.holds for one in found) else ExitCode.BUILD_FAILED


def _row(one: Challenge, answer: Answer) -> tuple[str, ...]:
    says = ", ".join(f"{name} {tree[:_SHOWN_DIGITS]}" for name, tree in sorted((answer.outputs or {}).items()))
    more = f" and {len(answer.differing) - 1} more" if len(answer.differing) > 1 else ""
    differs = f"{answer.differing[0]}{more}" if answer.differing else ""
    return (one.name, answer.source, answer.builder, answer.finding.value, says, differs)


def _sum_up(found: list[Challenge]) -> None:
    for one in found:
        if one.holds:
            continue
        trees = ", ".join(f"{name} {tree}" for name, tree in sorted(one.reference.items()))
        print(f"{one.name}: {'rebuilt' if one.rebuilt else 'here'} as {trees}", file=sys.stderr)


def _document(one: Challenge) -> dict[str, object]:
    answers = [
        {
            "source": answer.source,
            "finding": answer.finding.value,
            "builder": answer.builder,
            "outputs": dict(answer.outputs or {}),
            "started": answer.started,
            "differing": list(answer.differing),
        }
        for answer in one.answers
    ]
    return {
        "name": one.name,
        "key": one.key,
        "rebuilt": one.rebuilt,
        "reference": dict(one.reference),
        "answers": answers,
    }
