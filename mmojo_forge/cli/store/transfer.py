"""`forge store export|import`: results for machines without a network, in one file.

`forge store add-source FILE`: give forge a source that it cannot download.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option, set_option
from mmojo_forge.engine.cache.export import BundleContents, export_request
from mmojo_forge.engine.lock.add_source import add_source
from mmojo_forge.engine.query.query import target_path
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request


@click.command("export")
@click.argument("targets", nargs=-1, required=True)
@click.option("-o", "--output", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--closure", is_flag=True, help="With all that TARGET… were built from, sources and toolchains.")
@click.option("--not-redistributable", is_flag=True, help="Also what its licence keeps from others.")
@set_option
@json_option()
@click.pass_obj
def export(
    session: Session,
    targets: tuple[str, ...],
    path: Path,
    closure: bool,
    not_redistributable: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write TARGET…, which must be built, to one FILE that `forge store import` takes in elsewhere."""
    path = session.folder / path
    with Meter("exporting", sys.stderr) as meter:
        exported = export_request(
            session.workspace,
            Request.parse(targets, settings),
            session.store,
            path,
            closure=closure,
            not_redistributable=not_redistributable,
            on_progress=meter,
        )
    if as_json:
        more = {"path": str(path), "file_bytes": path.stat().st_size, "skipped": list(exported.skipped)}
        click.echo(json.dumps({**_document(exported.contents), **more}))
        return
    console.tell_skipped(exported.skipped)
    click.echo(path)
    click.echo(f"{_summary(exported.contents)}; {console.format_size(path.stat().st_size)} compressed", err=True)


@click.command("import")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@json_option()
@click.pass_obj
def import_(session: Session, path: Path, as_json: bool) -> None:
    """Take in what `forge store export` wrote: all of FILE once every byte of it was verified, or nothing.

    What its traces claim is believed from then on, marked as imported: take files from those only whom you trust to
    have built what they say.
    """
    with Meter("importing", sys.stderr) as meter:
        imported = session.store.import_bundle(session.folder / path, on_progress=meter)
    if as_json:
        more = {"new_traces": imported.new_traces, "conflicts": imported.conflicts}
        click.echo(json.dumps({**_document(imported.contents), **more}))
        return
    for one in imported.contents.targets:
        click.echo(f"{one.target}\t{one.tree}")
    click.echo(f"{_summary(imported.contents)}, {console.plural(imported.new_traces, 'trace')} new here", err=True)
    if imported.conflicts:
        click.echo(
            f"{console.plural(imported.conflicts, 'trace')} claim other outputs than those known here, which stay",
            err=True,
        )
    if imported.contents.targets:
        names = " ".join(one.target for one in imported.contents.targets)
        click.echo(f"`forge realize {names}` links what came, so that it is kept", err=True)


def _summary(contents: BundleContents) -> str:
    counts = (len(contents.trees), "tree"), (len(contents.blobs), "blob"), (len(contents.traces), "trace")
    return ", ".join(console.plural(count, noun) for count, noun in counts) + f", {console.format_size(contents.size)}"


def _document(contents: BundleContents) -> dict[str, object]:
    return {
        "schema": 1,
        "targets": [{"target": one.target, "tree": one.tree, "label": one.label} for one in contents.targets],
        "trees": len(contents.trees),
        "blobs": len(contents.blobs),
        "traces": len(contents.traces),
        "bytes": contents.size,
    }


@click.command("add-source")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="What it is in forge.lock (default: found by its content).")
@click.option("--pin", is_flag=True, help="Believe it: forge.lock pins NAME to this file from now on.")
@json_option()
@click.pass_obj
def add(session: Session, file: Path, name: str, pin: bool, as_json: bool) -> None:
    """Take FILE into the store as a source that forge.lock pins, after a look at its hash.

    For what is brought by hand: a model of one's own, a download that needs a login, a machine without a network.
    """
    added = add_source(session.workspace, session.store, file, name=name, pin=pin)
    if as_json:
        row = {"name": added.pin.name, "sha256": added.pin.sha256, "size": added.pin.size, "pinned": added.pinned}
        click.echo(json.dumps({"schema": 1, **row, **({"unwritten": added.unwritten} if added.unwritten else {})}))
        return
    click.echo(f"{added.pin.name}: {console.format_size(added.pin.size)}, SHA-256 {added.pin.sha256}")
    if added.pinned:
        click.echo("forge.lock written; commit it, so that everybody has the same", err=True)
    if added.unwritten:
        click.echo(f"warning: {added.unwritten}\nThis store knows the file, and builds use it.", err=True)


@click.command("path")
@click.argument("target", required=False)
@set_option
@json_option()
@click.pass_obj
def path(session: Session, target: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Print where the store lies, or where TARGET lies in it if it is built."""
    request = Request.parse((target,) if target else (), settings)
    found = target_path(session.workspace, request, session.store) if target else session.workspace.store
    click.echo(json.dumps({"path": str(found)}) if as_json else found)
