"""Commands that look at one target: `forge show`, `info`, `log` and `shell`.

`show` prints the derivation, with `--json` the document that its id is the hash of. `info` says what a finished result
is and who built it. `log` prints the log of the last build. `shell` enters the sandbox that a failed build left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option, set_option
from mmojo_forge.engine.package.build_info import read_build_info, slices_of, summarise
from mmojo_forge.engine.query.query import ResultInfo, describe, find_result, open_log
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request
from mmojo_forge.model.derivation import Derivation, Source

_MANY_SOURCES = 200
_SHOWN_SOURCES = 10


@click.command("show")
@click.argument("target")
@set_option
@json_option()
@click.option("--script", is_flag=True, help="Print only the shell script of its phases.")
@click.pass_obj
def show(session: Session, target: str, settings: tuple[str, ...], as_json: bool, script: bool) -> None:
    """Show TARGET's derivation: label, identity, options, inputs, environment."""
    shown = describe(session.workspace, Request.parse((target,), settings), session.store)
    node = shown.instance.node
    if script:
        click.echo(node.args[-1])
        return
    document = {
        "schema": 1,
        "target": target,
        "derivation": node.id,
        "key": shown.key,
        "outputs": {name: shown.outputs.get(name) for name in node.outputs},
        "label": node.label.to_json(),
        "options": dict(shown.options),
        "check_exemptions": dict(node.check_exemptions),
        "document": json.loads(node.encode()),
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    click.echo(f"{target}: {shown.summary}")
    click.echo(f"  label       {node.label}")
    click.echo(f"  derivation  {node.id}")
    click.echo(f"  action key  {shown.key or 'unknown until its inputs are built'}")
    for output in node.outputs:
        click.echo(f"  output      {output}: {shown.outputs.get(output) or 'not built'}")
    for name, value in shown.options.items():
        click.echo(f"  option      {name} = {value!r}")
    for line in inputs(node):
        click.echo(f"  input       {line}")
    for variable, value in node.env.items():
        click.echo(f"  env         {variable}={value}")
    for aspect, reason in node.check_exemptions.items():
        click.echo(f"  exempt      {aspect}: {reason}   (from forge check)")
    click.echo(f"  builder     {node.builder}   (for its phases: forge show --script {target})")


def inputs(node: Derivation) -> Iterator[str]:
    """A line for each input. Of hundreds of sources it shows the first few, and says how many more there are."""
    sources = [name for name, edge in node.inputs.items() if isinstance(edge.node, Source)]
    folded = sources[_SHOWN_SOURCES:] if len(sources) > _MANY_SOURCES else []
    hidden = frozenset(folded)
    for name, edge in node.inputs.items():
        if name not in hidden:
            yield f"{name} at {edge.at}: {edge.node.name}"
    if folded:
        yield f"and {len(folded)} more pinned sources (--json lists all)"


@click.command("info")
@click.argument("what", metavar="TARGET|FILE")
@json_option()
@click.pass_obj
def info(session: Session, what: str, as_json: bool) -> None:
    """Show what a finished TARGET or FILE is: tree, size, label, builder, build time, slices.

    FILE is a file that forge built or packaged.
    """
    info = find_result(session.workspace, what, session.folder, session.store)
    slices = slices_of(info.path)
    build = read_build_info(info.path)
    if as_json:
        click.echo(json.dumps({"schema": 1, **_document(info), "slices": slices, "build": build}))
        return
    for name, value in _document(info).items():
        if value is not None:
            click.echo(f"{name:<12} {value}")
    if slices:
        click.echo(f"{'slices':<12} {' '.join(slices)}")
    for name, value in summarise(build or {}):
        click.echo(f"{name:<12} {value}")


def _document(info: ResultInfo) -> dict[str, object]:
    trace = info.trace
    return {
        "path": str(info.path),
        "tree": info.tree,
        "size": console.format_size(info.size),
        "bytes": info.size,
        "files": info.files,
        "label": str(info.label) if info.label else None,
        "name": trace.name if trace else None,
        "key": trace.key if trace else None,
        "built_by": trace.builder if trace else None,
        "signed_by": " ".join(signature.key for signature in trace.signatures) or None if trace else None,
        "build_time": console.format_duration(trace.seconds) if trace else None,
    }


@click.command("log")
@click.argument("target", metavar="NAME")
@click.pass_obj
def log(session: Session, target: str) -> None:
    """Print the log of the last build of NAME, whether it failed or not.

    NAME is a target or the name of a node.
    """
    with open_log(session.workspace, target, session.store, session.directories) as log:
        while chunk := log.read(1 << 16):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@click.command("shell")
@click.argument("name")
@click.argument("argv", nargs=-1, metavar="[COMMAND…]")
@click.pass_obj
def shell(session: Session, name: str, argv: tuple[str, ...]) -> None:
    """Open a shell, or run COMMAND, in the sandbox of the last failed build of NAME.

    Files and environment are those of the failed build.
    """
    request = failed_builds.with_terminal(failed_builds.request_of(session.directories.failed_build(name)))
    click.echo(
        f"In /build as the failed build of {name} left it; inputs are in /forge, outputs go to /forge/out.", err=True
    )
    sandbox = failed_builds.prepare_to_enter(request, argv, session.executor())
    # bwrap gets no environment: it is process 1 of the sandbox, where anyone could read it in /proc/1/environ.
    os.execve(sandbox.argv[0], sandbox.argv, {})
