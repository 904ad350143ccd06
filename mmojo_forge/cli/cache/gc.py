"""`forge cache gc`: remove from a cache what is old, so that whatever stays is whole."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import Duration, Size, dry_run_option, json_option
from mmojo_forge.engine.cache.gc import (
    GRACE,
    CacheFileKind,
    CacheGcPlan,
    CacheGcPolicy,
    CacheGcResult,
    CacheRoot,
    collect_cache,
)
from mmojo_forge.engine.session import Session

USUAL_AGE = 30 * 86400.0
_SHOWN = 20


@click.command("gc")
@click.argument("cache")
@click.option(
    "--older-than", type=Duration(), help="Only what was not pushed for so long (30d unless a size is given)."
)
@click.option("--target-size", type=Size(), help="Oldest first, and no more than needed for a cache of that size.")
@click.option(
    "--grace", type=Duration(), default=GRACE, help="Longer than any push takes; 0 if nobody pushes now. [1d]"
)
@dry_run_option
@json_option()
@click.pass_obj
def gc(
    session: Session,
    cache: str,
    older_than: float | None,
    target_size: int | None,
    grace: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove from CACHE, a name, URL or folder, what nobody pushed for a while; pushes may go on meanwhile."""
    age = older_than if older_than is not None else USUAL_AGE if target_size is None else 0.0
    with Meter("collecting", sys.stderr) as meter:
        planned, done = collect_cache(
            session.cache_table(cache),
            session.environment,
            CacheGcPolicy(age, target_size, grace),
            time.time(),
            None if dry_run else meter,
        )
    if as_json:
        click.echo(json.dumps(_document(planned, done)))
        return
    _show_roots(planned)
    _show_kinds(planned, done)
    _show_sum(planned, done)


def _show_roots(planned: CacheGcPlan) -> None:
    if planned.roots:
        rows = [
            (_day(one.used), str(one.traces), str(one.trees), one.derivation[:16], one.signer)
            for one in planned.roots[:_SHOWN]
        ]
        console.show_table(("last push", "traces", "trees", "root", "signer"), rows)
        click.echo()


def _show_kinds(planned: CacheGcPlan, done: CacheGcResult | None) -> None:
    goes = done.removed if done else planned.goes
    rows = []
    for kind in CacheFileKind:
        size = sum(one.size for one in goes[kind])
        left = planned.counts[kind] - len(goes[kind])
        rows.append(
            (
                kind.value,
                str(len(goes[kind])),
                console.format_size(size),
                str(left),
                console.format_size(planned.sizes[kind] - size),
            )
        )
    console.show_table(("kind", "gone" if done else "goes", "size", "stays", "size"), rows)


def _show_sum(planned: CacheGcPlan, done: CacheGcResult | None) -> None:
    verb = "freed" if done else "would free"
    total = done.total if done else planned.total
    roots = f"{console.plural(len(planned.roots), 'root')} of {len(planned.roots) + len(planned.roots_kept)}"
    click.echo(
        f"{verb} {console.format_size(total)} of {console.format_size(planned.size_before)}, with {roots}", err=True
    )
    if planned.waits:
        ready = max(planned.waits.values()) + planned.grace
        click.echo(
            f"{console.format_size(planned.waiting_bytes)} more that no tree needs now are kept for pushes "
            "that may be running;"
            f" collect again after {_minute(ready)}",
            err=True,
        )
    if done and done.spared:
        click.echo(f"{console.plural(len(done.spared), 'object')} stayed, since somebody pushed meanwhile", err=True)
    for problem in planned.problems[:_SHOWN]:
        click.echo(f"warning: {problem.message}", err=True)
    if len(planned.problems) > _SHOWN:
        click.echo(f"warning: {len(planned.problems) - _SHOWN} more like these", err=True)


def _document(planned: CacheGcPlan, done: CacheGcResult | None) -> dict[str, object]:
    result = done or planned
    return {
        "schema": 1,
        "dry_run": done is None,
        "bytes": result.total,
        "bytes_by_kind": {kind.value: size for kind, size in result.freed.items()},
        "cache_bytes": planned.size_before,
        "waiting_bytes": planned.waiting_bytes,
        "objects": sum(len(several) for several in (done.removed if done else planned.goes).values()),
        "spared": len(done.spared) if done else 0,
        "roots": [_root(one) for one in planned.roots],
        "roots_kept": [_root(one) for one in planned.roots_kept],
        "problems": [{"message": one.message, "reason": one.reason} for one in planned.problems],
    }


def _root(one: CacheRoot) -> dict[str, object]:
    return {
        "derivation": one.derivation,
        "signer": one.signer,
        "used": round(one.used),
        "traces": one.traces,
        "trees": one.trees,
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
