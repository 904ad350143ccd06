"""`forge store gc`, `roots` and `du`: remove what is unused, list what keeps results alive, show what takes room."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import Duration, Size, dry_run_option, json_option
from mmojo_forge.engine.query.maintenance import GcPolicy, GcResult, ObjectUsage, StoreUsage, collect_store, trees_of
from mmojo_forge.engine.session import Session

USUAL_AGE = 30 * 86400.0
_LARGEST = 20
_SHARERS = 10


@click.command("gc")
@click.option(
    "--older-than", type=Duration(), help="Only what nobody used for this long (default: 30d; 0 with --target-size)."
)
@click.option("--target-size", type=Size(), help="Remove the oldest first, until the store has this size.")
@click.option("--keep-closure", is_flag=True, help="Also keep what the linked results were built from.")
@click.option("--forget", is_flag=True, help="Also drop the build traces of what is removed.")
@dry_run_option
@json_option()
@click.pass_obj
def gc(
    session: Session,
    older_than: float | None,
    target_size: int | None,
    keep_closure: bool,
    forget: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what no link keeps alive and nobody used for a while. Builds may run meanwhile."""
    age = older_than if older_than is not None else USUAL_AGE if target_size is None else 0.0
    policy = GcPolicy(age, target_size, keep_closure, forget)
    with Meter("collecting", sys.stderr) as meter:
        done = collect_store(
            session.store, session.directories, policy, time.time(), dry=dry_run, on_step=meter, on_wait=meter.wait
        )
    if as_json:
        click.echo(json.dumps(_collected_document(done, dry_run)))
        return
    _show_victims(done)
    _show_sum(done, dry_run)


def _show_victims(done: GcResult) -> None:
    largest = sorted(done.victims, key=lambda victim: -victim.size)[:_LARGEST]
    rows = [
        (console.format_size(victim.size), _day(victim.used), victim.name or "(unnamed)", victim.tree[:16])
        for victim in largest
    ]
    if rows:
        console.show_table(("size", "last used", "name", "tree"), rows)


def _show_sum(done: GcResult, dry: bool) -> None:
    amount = f"{console.plural(len(done.victims), 'tree')}, {console.plural(done.blobs, 'blob')}"
    parts = ", ".join(f"{kind} {console.format_size(size)}" for kind, size in sorted(done.freed.items()) if size)
    verb = "would free" if dry else "freed"
    click.echo(
        f"{verb} {console.format_size(done.total)} of {console.format_size(done.size_before)} "
        f"({amount}{'; ' + parts if parts else ''})",
        err=True,
    )
    if done.young:
        click.echo(
            f"{console.format_size(done.young)} more have no link, but stay: used recently, or the size is reached"
            " (--older-than 0 removes all that no running process uses)",
            err=True,
        )
    for count, noun in ((done.roots, "entry of a link that is gone"), (done.traces, "trace")):
        if count:
            click.echo(f"dropped {console.plural(count, noun)}", err=True)


def _collected_document(done: GcResult, dry: bool) -> dict[str, object]:
    return {
        "schema": 1,
        "dry_run": dry,
        "bytes": done.total,
        "bytes_by_kind": done.freed,
        "store_bytes": done.size_before,
        "kept_unlinked_bytes": done.young,
        "blobs": done.blobs,
        "traces": done.traces,
        "dangling_roots": done.roots,
        "trees": [
            {"tree": victim.tree, "name": victim.name, "bytes": victim.size, "used": round(victim.used)}
            for victim in done.victims
        ],
    }


@click.command("roots")
@json_option()
@click.pass_obj
def roots(session: Session, as_json: bool) -> None:
    """List the links that keep results alive, those included that are gone or lead elsewhere."""
    sizes = session.store.maintenance.tree_sizes()
    rows = [
        {
            "link": str(root.link),
            "target": str(root.target) if root.target else None,
            "tree": root.tree,
            "bytes": sizes.get(root.tree) if root.tree else None,
            "dangling": root.tree is None or root.tree not in sizes,
        }
        for root in session.store.roots()
    ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "roots": rows}))
        return
    shown = [
        (
            console.format_size(sizes[root.tree]) if root.tree in sizes else "",
            str(root.link),
            "dangling" if root.tree is None or root.tree not in sizes else root.target.name if root.target else "",
        )
        for root in session.store.roots()
    ]
    console.show_table(("size", "link", "object"), shown)


@click.command("du")
@click.argument("targets", nargs=-1, metavar="[TARGET…]")
@click.option("--all", "everything", is_flag=True, help="List every object, not only the largest.")
@json_option()
@click.pass_obj
def du(session: Session, targets: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Show how much room the store takes, or what each TARGET takes.

    For each TARGET forge shows the bytes that are its own, and which objects share the others.
    """
    store = session.store
    trees = trees_of(session.workspace, targets, store) if targets else None
    usage = store.maintenance.measure(set(trees.values()) if trees is not None else None)
    if as_json:
        click.echo(json.dumps(_usage_document(usage)))
        return
    shown = usage.objects if everything or targets else usage.objects[:_LARGEST]
    rows = [
        (
            console.format_size(item.size),
            console.format_size(item.exclusive),
            console.format_size(item.shared),
            str(item.files),
            _day(item.used),
            item.name,
        )
        for item in shown
    ]
    console.show_table(("size", "own", "shared", "files", "last used", "object"), rows)
    for item in shown if targets else ():
        _show_sharers(item)
    if not targets:
        _show_kinds(usage)


def _show_sharers(usage: ObjectUsage) -> None:
    for sharer in usage.sharers[:_SHARERS]:
        click.echo(f"  {usage.name} shares {console.format_size(sharer.size)} with {sharer.name or sharer.tree}")


def _show_kinds(usage: StoreUsage) -> None:
    click.echo()
    console.show_table(
        ("kind", "size"), [(kind, console.format_size(size)) for kind, size in usage.kinds.items() if size]
    )
    click.echo(
        f"{console.format_size(usage.total)} in all, {console.plural(usage.trees, 'tree')} that would take"
        f" {console.format_size(usage.apparent)} if nothing were shared"
        + (f"; {console.format_size(usage.unused)} of blobs that belong to no tree" if usage.unused else ""),
        err=True,
    )


def _usage_document(usage: StoreUsage) -> dict[str, object]:
    return {
        "schema": 1,
        "bytes": usage.total,
        "bytes_by_kind": dict(usage.kinds),
        "trees": usage.trees,
        "bytes_if_nothing_were_shared": usage.apparent,
        "bytes_of_no_tree": usage.unused,
        "objects": [
            {
                "tree": item.tree,
                "name": item.name,
                "files": item.files,
                "bytes": item.size,
                "own_bytes": item.exclusive,
                "shared_bytes": item.shared,
                "used": round(item.used),
                "shared_with": [
                    {"tree": sharer.tree, "name": sharer.name, "bytes": sharer.size} for sharer in item.sharers
                ],
            }
            for item in usage.objects
        ],
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
