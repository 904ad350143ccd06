"""`forge store gc|roots|du`: what keeps what alive, what may go, how much room it takes."""

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
@click.option("--older-than", type=Duration(), help="Only what was not used for so long (30d unless a size is given).")
@click.option("--target-size", type=Size(), help="Oldest first, and no more than needed for a store of that size.")
@click.option("--keep-closure", is_flag=True, help="Keep what the linked results were built from, too.")
@click.option("--forget", is_flag=True, help="Drop the traces of what is gone, too: nobody can tell what it was.")
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
    """Remove what no link keeps alive and nobody used for a while; builds may go on meanwhile."""
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
    rows = [(console.format_size(one.size), _day(one.used), one.name or "(unnamed)", one.tree[:16]) for one in largest]
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
            f"{console.format_size(done.young)} more that no link keeps stay: used too recently, or the size is met"
            " (--older-than 0 takes all that no running process uses)",
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
            {"tree": one.tree, "name": one.name, "bytes": one.size, "used": round(one.used)} for one in done.victims
        ],
    }


@click.command("roots")
@json_option()
@click.pass_obj
def roots(session: Session, as_json: bool) -> None:
    """List the links that keep results alive, those that are gone or lead elsewhere included."""
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
@click.argument("targets", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every object, not only the largest.")
@json_option()
@click.pass_obj
def du(session: Session, targets: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Show how much room the store takes, or what TARGET… take: bytes of their own, and shared with what."""
    store = session.store
    trees = trees_of(session.workspace, targets, store) if targets else None
    usage = store.maintenance.measure(set(trees.values()) if trees is not None else None)
    if as_json:
        click.echo(json.dumps(_usage_document(usage)))
        return
    shown = usage.objects if everything or targets else usage.objects[:_LARGEST]
    rows = [
        (
            console.format_size(one.size),
            console.format_size(one.exclusive),
            console.format_size(one.shared),
            str(one.files),
            _day(one.used),
            one.name,
        )
        for one in shown
    ]
    console.show_table(("size", "own", "shared", "files", "last used", "object"), rows)
    for one in shown if targets else ():
        _show_sharers(one)
    if not targets:
        _show_kinds(usage)


def _show_sharers(one: ObjectUsage) -> None:
    for sharer in one.sharers[:_SHARERS]:
        click.echo(f"  {one.name} shares {console.format_size(sharer.size)} with {sharer.name or sharer.tree}")


def _show_kinds(usage: StoreUsage) -> None:
    click.echo()
    console.show_table(
        ("kind", "size"), [(kind, console.format_size(size)) for kind, size in usage.kinds.items() if size]
    )
    click.echo(
        f"{console.format_size(usage.total)} in all, {console.plural(usage.trees, 'tree')} that would take"
        f" {console.format_size(usage.apparent)} if nothing were shared"
        + (f"; {console.format_size(usage.unused)} of blobs that no tree has" if usage.unused else ""),
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
                "tree": one.tree,
                "name": one.name,
                "files": one.files,
                "bytes": one.size,
                "own_bytes": one.exclusive,
                "shared_bytes": one.shared,
                "used": round(one.used),
                "shared_with": [
                    {"tree": sharer.tree, "name": sharer.name, "bytes": sharer.size} for sharer in one.sharers
                ],
            }
            for one in usage.objects
        ],
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
