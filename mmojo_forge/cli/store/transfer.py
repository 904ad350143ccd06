"""What goes into the store by hand, and where it lies: `forge store export`, `import`, `add-source` and `path`.

`export` and `import` carry results to machines without a network, in one file. `add-source` adds a source that forge
cannot download.
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
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file to write.",
)
@click.option("--closure", is_flag=True, help="Include what TARGET… was built from: sources and toolchains.")
@click.option("--not-redistributable", is_flag=True, help="Include what is not redistributable.")
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
    """Write each TARGET, which must be built, to one file for `forge store import` on another machine."""
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
    """Import a FILE that `forge store export` wrote: all of it after every byte is verified, or nothing.

    forge trusts the traces in FILE from then on, and marks them as imported. Import files only from people whom you
    trust to have built what they say.
    """
    with Meter("importing", sys.stderr) as meter:
        imported = session.store.import_bundle(session.folder / path, on_progress=meter)
    if as_json:
        more = {"new_traces": imported.new_traces, "conflicts": imported.conflicts}
        click.echo(json.dumps({**_document(imported.contents), **more}))
        return
    for item in imported.contents.targets:
        click.echo(f"{item.target}\t{item.tree}")
    click.echo(f"{_summary(imported.contents)}, {console.plural(imported.new_traces, 'trace')} new here", err=True)
    if imported.conflicts:
        click.echo(
            f"{console.plural(imported.conflicts, 'trace')} claim other outputs than this store has, which stay",
            err=True,
        )
    if imported.contents.targets:
        names = " ".join(item.target for item in imported.contents.targets)
        click.echo(f"`forge realize {names}` links the results, so that `forge store gc` keeps them", err=True)


def _summary(contents: BundleContents) -> str:
    counts = (len(contents.trees), "tree"), (len(contents.blobs), "blob"), (len(contents.traces), "trace")
    return ", ".join(console.plural(count, noun) for count, noun in counts) + f", {console.format_size(contents.size)}"


def _document(contents: BundleContents) -> dict[str, object]:
    return {
        "schema": 1,
        "targets": [{"target": item.target, "tree": item.tree, "label": item.label} for item in contents.targets],
        "trees": len(contents.trees),
        "blobs": len(contents.blobs),
        "traces": len(contents.traces),
        "bytes": contents.size,
    }


@click.command("add-source")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", help="Name of the pin in forge.lock (default: found by the hash).")
@click.option("--pin", is_flag=True, help="Pin NAME to this file in forge.lock, whatever its hash.")
@json_option()
@click.pass_obj
def add(session: Session, file: Path, name: str, pin: bool, as_json: bool) -> None:
    """Add FILE to the store as a source that forge.lock pins, if it has the pinned hash.

    Use it for a source that forge cannot download: your own model, a download that needs a login, or on a machine
    without a network.
    """
    added = add_source(session.workspace, session.store, file, name=name, pin=pin)
    if as_json:
        row = {"name": added.pin.name, "sha256": added.pin.sha256, "size": added.pin.size, "pinned": added.pinned}
        click.echo(json.dumps({"schema": 1, **row, **({"unwritten": added.unwritten} if added.unwritten else {})}))
        return
    click.echo(f"{added.pin.name}: {console.format_size(added.pin.size)}, SHA-256 {added.pin.sha256}")
    if added.pinned:
        click.echo("forge.lock written; commit it, so that everybody uses this file", err=True)
    if added.unwritten:
        click.echo(f"warning: {added.unwritten}\nThis store knows the file, and builds use it.", err=True)


@click.command("path")
@click.argument("target", required=False)
@set_option
@json_option()
@click.pass_obj
def path(session: Session, target: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Print the path of the store, or of TARGET in it; TARGET must be built."""
    request = Request.parse((target,) if target else (), settings)
    found = target_path(session.workspace, request, session.store) if target else session.workspace.store
    click.echo(json.dumps({"path": str(found)}) if as_json else found)
