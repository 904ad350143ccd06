"""`forge cache gc`: remove old content from a cache; whatever stays is complete."""

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
    "--older-than",
    type=Duration(),
    help="Only what nobody pushed for this long (default: 30d; 0 with --target-size).",
)
@click.option("--target-size", type=Size(), help="Remove the oldest first, until the cache has this size.")
@click.option(
    "--grace",
    type=Duration(),
    default=GRACE,
    help="How long to keep what a running push may need; 0 if nobody pushes (default: 1d).",
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
    """Remove from CACHE what nobody pushed for a while. Pushes may run meanwhile.

    CACHE is a name from the configuration, a URL or a folder.
    """
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
            (_day(root.used), str(root.traces), str(root.trees), root.derivation[:16], root.signer)
            for root in planned.roots[:_SHOWN]
        ]
        console.show_table(("last push", "traces", "trees", "root", "signer"), rows)
        click.echo()


def _show_kinds(planned: CacheGcPlan, done: CacheGcResult | None) -> None:
    removed = done.removed if done else planned.goes
    rows = []
    for kind in CacheFileKind:
        size = sum(file.size for file in removed[kind])
        left = planned.counts[kind] - len(removed[kind])
        rows.append(
            (
                kind.value,
                str(len(removed[kind])),
                console.format_size(size),
                str(left),
                console.format_size(planned.sizes[kind] - size),
            )
        )
    console.show_table(("kind", "removed" if done else "to remove", "size", "kept", "size"), rows)


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
            f"{console.format_size(planned.waiting_bytes)} more that no tree needs are kept, as a running push "
            f"may need them; collect again after {_minute(ready)}",
            err=True,
        )
    if done and done.spared:
        click.echo(f"{console.plural(len(done.spared), 'object')} kept, because somebody pushed meanwhile", err=True)
    for problem in planned.problems[:_SHOWN]:
        click.echo(f"warning: {problem.message}", err=True)
    if len(planned.problems) > _SHOWN:
        click.echo(f"warning: {len(planned.problems) - _SHOWN} more problems like these", err=True)


def _document(planned: CacheGcPlan, done: CacheGcResult | None) -> dict[str, object]:
    result = done or planned
    return {
        "schema": 1,
        "dry_run": done is None,
        "bytes": result.total,
        "bytes_by_kind": {kind.value: size for kind, size in result.freed.items()},
        "cache_bytes": planned.size_before,
        "waiting_bytes": planned.waiting_bytes,
        "objects": sum(len(files) for files in (done.removed if done else planned.goes).values()),
        "spared": len(done.spared) if done else 0,
        "roots": [_root(root) for root in planned.roots],
        "roots_kept": [_root(root) for root in planned.roots_kept],
        "problems": [{"message": problem.message, "reason": problem.reason} for problem in planned.problems],
    }


def _root(root: CacheRoot) -> dict[str, object]:
    return {
        "derivation": root.derivation,
        "signer": root.signer,
        "used": round(root.used),
        "traces": root.traces,
        "trees": root.trees,
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
