"""`forge cache push`: results into caches.

`forge cache pull`: results out of caches, and nothing but caches.
"""

from __future__ import annotations

import json
import sys

import click

from mmojo_forge.cache.write.writer import Pushed, PushMode
from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter, show_results
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.cache.open import open_place
from mmojo_forge.engine.cache.push import PushPlan, pack
from mmojo_forge.engine.cache.push import push as push_planned
from mmojo_forge.engine.cache.settings import CacheTable
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.realise.run import realise_request
from mmojo_forge.engine.workspace import Request


@click.command("push")
@click.argument("targets", nargs=-1, required=True)
@click.option("--to", "caches", multiple=True, metavar="NAME|URL|FOLDER", help="Where to; may be given several times.")
@click.option("--closure", is_flag=True, help="With all that TARGET… were built from, sources and toolchains.")
@click.option("--host-specific", is_flag=True, help="Also what was built for this very machine.")
@click.option("--not-redistributable", is_flag=True, help="Also what its licence keeps from others.")
@click.option(
    "--care",
    type=click.Choice([care.value for care in PushMode]),
    default=PushMode.TRUSTING.value,
    help="thorough: look whether all packs are there; anew: replace whatever is there.",
)
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def push(
    context: Context,
    targets: tuple[str, ...],
    caches: tuple[str, ...],
    closure: bool,
    host_specific: bool,
    not_redistributable: bool,
    care: str,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Put TARGET…, which must be built, into a cache, with the signed traces of all that they were built from."""
    tables = context.cache_settings().to_push_to(caches)
    plan = evaluate(context.workspace, Request.parse(targets, settings)).plan(context.store)
    push_plan = pack(
        plan,
        context.store,
        context.keys().own(),
        closure=closure,
        host_specific=host_specific,
        not_redistributable=not_redistributable,
    )
    rows = {
        name: _push_to(context, name, table, push_plan, PushMode(care), quiet=quiet or as_json)
        for name, table in tables.items()
    }
    if as_json:
        documents = {name: _document(row) for name, row in rows.items()}
        print(json.dumps({"schema": 1, "caches": documents, "skipped": list(push_plan.skipped)}))
        return
    console.tell_skipped(push_plan.skipped)
    for name, row in rows.items():
        click.echo(f"{name}: {_summary(row)}")


def _push_to(
    context: Context, name: str, table: CacheTable, push_plan: PushPlan, care: PushMode, *, quiet: bool
) -> Pushed:
    transport = open_place(table, context.environment)
    try:
        with Meter(f"pushing to {name}", sys.stderr) as meter:
            return push_planned(
                push_plan,
                transport,
                context.store,
                context.keys().own(),
                care=care,
                on_sent=(lambda _: None) if quiet else meter.count,
            )
    finally:
        transport.close()


def _summary(done: Pushed) -> str:
    new = f"{console.plural(done.trees, 'tree')} ({console.format_size(done.content_bytes)} of content"
    reused = f", {console.format_size(done.reused_bytes)} of it there already" if done.reused_bytes else ""
    there = f"; {console.plural(done.trees_known, 'tree')} there already" if done.trees_known else ""
    sent = console.format_size(done.sent_bytes)
    return f"{new}{reused}), {console.plural(done.traces, 'trace')} new, {sent} sent{there}"


def _document(done: Pushed) -> dict[str, int]:
    return {
        "trees": done.trees,
        "trees_known": done.trees_known,
        "traces": done.traces,
        "content_bytes": done.content_bytes,
        "reused_bytes": done.reused_bytes,
        "sent_bytes": done.sent_bytes,
    }


@click.command("pull")
@click.argument("targets", nargs=-1, required=True)
@click.option("--from", "caches", multiple=True, metavar="NAME|URL|FOLDER", help="Where from, instead of those set.")
@click.option("--no-link", is_flag=True, help="Leave no link in out/; the result may be collected at any time.")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def pull(
    context: Context,
    targets: tuple[str, ...],
    caches: tuple[str, ...],
    no_link: bool,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Take TARGET… from the caches without building anything, and print where they lie."""
    run_settings = context.settings(substitute_only=True)
    reporter = make_reporter(run_settings.jobs, as_json=as_json, quiet=quiet)
    services = context.services(reporter, caches=caches)
    request = Request.parse(targets, settings)
    results = realise_request(context.workspace, request, services, run_settings, link=not no_link)
    show_results(results, as_json=as_json)
