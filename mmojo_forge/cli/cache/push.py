"""`forge cache push` uploads results to caches; `forge cache pull` downloads them and builds nothing."""

from __future__ import annotations

import json
import sys
from types import MappingProxyType

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter, show_results
from mmojo_forge.cli.options import from_option, json_option, quiet_option, set_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.cache.open import open_place
from mmojo_forge.engine.cache.push import Pushed, PushMode, PushPlan, pack
from mmojo_forge.engine.cache.push import push as push_planned
from mmojo_forge.engine.config import CacheTable
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.realise.run import realise_request
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request

_OLD_MODES = MappingProxyType(
    {"trusting": PushMode.TRUSTING, "thorough": PushMode.THOROUGH, "anew": PushMode.OVERWRITE}
)


@click.command("push")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("--to", "caches", multiple=True, metavar="NAME|URL|FOLDER", help="The cache to push to. Repeatable.")
@click.option("--closure", is_flag=True, help="Include what TARGET… was built from: sources and toolchains.")
@click.option("--host-specific", is_flag=True, help="Include results that fit machines like this one only.")
@click.option("--not-redistributable", is_flag=True, help="Include what is not redistributable.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in PushMode]),
    default=PushMode.TRUSTING.value,
    help="thorough: check that all packs are there; overwrite: replace whatever is there.",
)
@click.option("--care", type=click.Choice(list(_OLD_MODES)), hidden=True, help="What --mode was called.")
@set_option
@quiet_option
@json_option()
@click.pass_obj
def push(
    session: Session,
    targets: tuple[str, ...],
    caches: tuple[str, ...],
    closure: bool,
    host_specific: bool,
    not_redistributable: bool,
    mode: str,
    care: str | None,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Upload TARGET… to a cache, with the signed traces of everything below. They must be built."""
    tables = session.cache_settings().to_push_to(caches)
    plan = evaluate(session.workspace, Request.parse(targets, settings)).plan(session.store)
    push_plan = pack(
        plan,
        session.store,
        session.keys().own(),
        closure=closure,
        host_specific=host_specific,
        not_redistributable=not_redistributable,
    )
    chosen = _OLD_MODES[care] if care else PushMode(mode)
    rows = {
        name: _push_to(session, name, table, push_plan, chosen, quiet=quiet or as_json)
        for name, table in tables.items()
    }
    if as_json:
        documents = {name: _document(row) for name, row in rows.items()}
        click.echo(json.dumps({"schema": 1, "caches": documents, "skipped": list(push_plan.skipped)}))
        return
    console.tell_skipped(push_plan.skipped)
    for name, row in rows.items():
        click.echo(f"{name}: {_summary(row)}")


def _push_to(
    session: Session, name: str, table: CacheTable, push_plan: PushPlan, mode: PushMode, *, quiet: bool
) -> Pushed:
    transport = open_place(table, session.environment)
    try:
        with Meter(f"pushing to {name}", sys.stderr) as meter:
            return push_planned(
                push_plan,
                transport,
                session.store,
                session.keys().own(),
                mode=mode,
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
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@from_option("caches")
@click.option("--no-link", is_flag=True, help="Make no link in out/; `forge store gc` may then remove the result.")
@set_option
@quiet_option
@json_option("Progress as JSON events, the result as one JSON object.")
@click.pass_obj
def pull(
    session: Session,
    targets: tuple[str, ...],
    caches: tuple[str, ...],
    no_link: bool,
    settings: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Download TARGET… from the caches, and print their paths. Nothing is built."""
    run_settings = session.settings(substitute_only=True)
    reporter = make_reporter(run_settings.jobs, as_json=as_json, quiet=quiet)
    services = session.services(reporter, caches=caches)
    request = Request.parse(targets, settings)
    results = realise_request(session.workspace, request, services, run_settings, link=not no_link)
    show_results(results, as_json=as_json)
