"""`forge store export|import`: results for machines without a network, in one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mmojo_forge.cli import left_out, units
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.meter import Meter
from mmojo_forge.engine.transfer import export_request
from mmojo_forge.engine.workspace import Request
from mmojo_forge.store.bundle import Contents


@click.command("export")
@click.argument("targets", nargs=-1, required=True)
@click.option("-o", "--output", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--closure", is_flag=True, help="With all that TARGET… were built from, sources and toolchains.")
@click.option("--not-redistributable", is_flag=True, help="Also what its licence keeps from others.")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def export(
    context: Context,
    targets: tuple[str, ...],
    path: Path,
    closure: bool,
    not_redistributable: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write TARGET…, which must be built, to one FILE that `forge store import` takes in elsewhere."""
    path = context.folder / path
    with Meter("exporting", sys.stderr) as meter:
        exported = export_request(
            context.workspace,
            Request.parse(targets, settings),
            context.store,
            path,
            closure=closure,
            not_redistributable=not_redistributable,
            on_progress=meter,
        )
    if as_json:
        more = {"path": str(path), "file_bytes": path.stat().st_size, "left_out": list(exported.left_out)}
        print(json.dumps({**_document(exported.contents), **more}))
        return
    left_out.tell(exported.left_out)
    print(path)
    click.echo(f"{_summary(exported.contents)}; {units.size(path.stat().st_size)} compressed", err=True)


@click.command("import")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def import_(context: Context, path: Path, as_json: bool) -> None:
    """Take in what `forge store export` wrote: all of FILE once every byte of it was verified, or nothing.

    What its traces claim is believed from then on, marked as imported: take files from those only whom you trust to
    have built what they say.
    """
    with Meter("importing", sys.stderr) as meter:
        imported = context.store.import_bundle(context.folder / path, on_progress=meter)
    if as_json:
        more = {"new_traces": imported.new_traces, "conflicts": imported.conflicts}
        print(json.dumps({**_document(imported.contents), **more}))
        return
    for one in imported.contents.targets:
        print(f"{one.target}\t{one.tree}")
    click.echo(f"{_summary(imported.contents)}, {units.plural(imported.new_traces, 'trace')} new here", err=True)
    if imported.conflicts:
        click.echo(
            f"{units.plural(imported.conflicts, 'trace')} claim other outputs than those known here, which stay",
            err=True,
        )
    if imported.contents.targets:
        names = " ".join(one.target for one in imported.contents.targets)
        click.echo(f"`forge realize {names}` links what came, so that it is kept", err=True)


def _summary(contents: Contents) -> str:
    counts = (len(contents.trees), "tree"), (len(contents.blobs), "blob"), (len(contents.traces), "trace")
    return ", ".join(units.plural(count, noun) for count, noun in counts) + f", {units.size(contents.size)}"


def _document(contents: Contents) -> dict[str, object]:
    return {
        "schema": 1,
        "targets": [{"target": one.target, "tree": one.tree, "label": one.label} for one in contents.targets],
        "trees": len(contents.trees),
        "blobs": len(contents.blobs),
        "traces": len(contents.traces),
        "bytes": contents.size,
    }
