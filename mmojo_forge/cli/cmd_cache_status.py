"""`forge cache status`: what each cache has of this workspace."""

from __future__ import annotations

import json
import time

import click

from mmojo_forge.cli import table, units
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.cache_access import named_cache
from mmojo_forge.engine.cache_status import CacheStatus, TargetStatus, cache_status
from mmojo_forge.engine.maintain import all_instances
from mmojo_forge.engine.workspace import Request
from mmojo_forge.model.signature import PublicKey


@click.command("status")
@click.argument("targets", nargs=-1)
@click.option("--from", "names", multiple=True, metavar="NAME|URL|FOLDER", help="Which caches, instead of those set.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(context: Context, targets: tuple[str, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Show what each cache has: of every target of the workspace in sum, or of TARGET… one by one."""
    settings = context.cache_settings()
    trusted = context.keys().trusted()
    workspace = context.workspace
    instances = (
        Request.parse(targets).instantiate(workspace.evaluator(workspace.read_lock()))
        if targets
        else all_instances(workspace)
    )
    found = [
        cache_status(
            named_cache(name, one, trusted, context.environment),
            instances,
            context.store,
            agree=settings.trust.agree,
            clock=time.monotonic,
        )
        for name, one in settings.chosen(names).items()
    ]
    if as_json:
        print(json.dumps({"schema": 1, "caches": [_document(one, trusted) for one in found]}))
        return
    now = time.time()
    if targets:
        header = ("cache", "target", "state", "size", "known", "built", "by")
        table.show(header, [_target_row(one, row, now) for one in found for row in one.targets])
    else:
        table.show(("cache", "state", "targets", "size", "newest", "signed by"), [_row(one, now) for one in found])
    for one in found:
        _tell_problems(one, trusted)


def _row(one: CacheStatus, now: float) -> tuple[str, ...]:
    if one.error is not None:
        return (one.name, one.error.reason, "", "", "", "")
    total = len(one.targets)
    share = f"{one.complete} of {total} ({100 * one.complete // total} %)" if total else "0"
    age = units.age(now - one.newest) if one.newest is not None else ""
    builders = sorted({row.builder for row in one.targets if row.complete})
    return (one.name, "ok", share, units.size(one.size), age, ", ".join(builders))


def _target_row(one: CacheStatus, row: TargetStatus, now: float) -> tuple[str, ...]:
    state = "complete" if row.complete else "known" if row.builder else "missing"
    built = units.age(now - row.started) if row.builder else ""
    size = units.size(row.size) if row.builder else ""
    return (one.name, row.target, state, size, f"{row.known} of {row.nodes} nodes", built, row.builder)


def _tell_problems(one: CacheStatus, trusted: list[PublicKey]) -> None:
    if one.error is not None:
        click.echo(f"cache {one.name}: {one.error.message}", err=True)
    for warning in one.warnings:
        click.echo(f"warning: {warning}", err=True)
    for key in _unknown_keys(one, trusted):
        click.echo(
            f"cache {one.name} suggests the key {key}, which is not trusted here; ask its owner whether it is the "
            f"right one, then: forge cache key trust {key}",
            err=True,
        )


def _unknown_keys(one: CacheStatus, trusted: list[PublicKey]) -> list[PublicKey]:
    known = {key.key for key in trusted}
    return [key for key in one.info.keys if key.key not in known] if one.info else []


def _document(one: CacheStatus, trusted: list[PublicKey]) -> dict[str, object]:
    rows = [
        {
            "target": row.target,
            "complete": row.complete,
            "size": row.size,
            "builder": row.builder,
            "started": row.started,
            "nodes_known": row.known,
            "nodes": row.nodes,
        }
        for row in one.targets
    ]
    return {
        "name": one.name,
        "error": one.error.reason if one.error else None,
        "complete": one.complete,
        "size": one.size,
        "newest": one.newest,
        "suggested_keys": [str(key) for key in one.info.keys] if one.info else [],
        "untrusted_keys": [str(key) for key in _unknown_keys(one, trusted)],
        "warnings": list(one.warnings),
        "targets": rows,
    }
