"""`forge show TARGET`: the derivation, as the very document its id is the hash of.

`forge info TARGET|FILE`: what a finished result is, whence it came.

`forge log TARGET`: the log of its last build.

`forge shell NAME`: step into the sandbox of a failed build, as it was left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mmojo_forge.ape.container import read_container
from mmojo_forge.cli import console
from mmojo_forge.cli.context import Context
from mmojo_forge.engine.package.build_info import read_build_info, summarise
from mmojo_forge.engine.query.query import ResultInfo, describe, find_result, open_log
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.workspace import Request
from mmojo_forge.executor import personality
from mmojo_forge.model.derivation import Derivation, Source

_MANY_SOURCES = 200
_SHOWN_SOURCES = 10


@click.command("show")
@click.argument("target")
@click.option("--set", "settings", multiple=True, metavar="[TARGET:]NAME=VALUE", help="Set an option of a recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--script", is_flag=True, help="Only the shell text of its phases.")
@click.pass_obj
def show(context: Context, target: str, settings: tuple[str, ...], as_json: bool, script: bool) -> None:
    """Show TARGET's derivation: options, inputs, phases, label, identity."""
    shown = describe(context.workspace, Request.parse((target,), settings), context.store)
    node = shown.instance.node
    if script:
        print(node.args[-1])
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
        print(json.dumps(document))
        return
    print(f"{target}: {shown.summary}")
    print(f"  label       {node.label}")
    print(f"  derivation  {node.id}")
    print(f"  action key  {shown.key or 'not known before its inputs are built'}")
    for output in node.outputs:
        print(f"  output      {output}: {shown.outputs.get(output) or 'not built'}")
    for name, value in shown.options.items():
        print(f"  option      {name} = {value!r}")
    for line in inputs(node):
        print(f"  input       {line}")
    for variable, value in node.env.items():
        print(f"  env         {variable}={value}")
    for aspect, reason in node.check_exemptions.items():
        print(f"  exempt      {aspect}: {reason}   (from forge check)")
    print(f"  builder     {node.builder}   (the phases: forge show --script {target})")


def inputs(node: Derivation) -> Iterator[str]:
    """A line for each input; of hundreds of sources only the first ones, and how many more there are."""
    sources = [name for name, edge in node.inputs.items() if isinstance(edge.node, Source)]
    folded = sources[_SHOWN_SOURCES:] if len(sources) > _MANY_SOURCES else []
    hidden = frozenset(folded)
    for name, edge in node.inputs.items():
        if name not in hidden:
            yield f"{name} at {edge.at}: {edge.node.name}"
    if folded:
        yield f"and {len(folded)} more pinned sources (--json has all)"


@click.command("info")
@click.argument("what")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def info(context: Context, what: str, as_json: bool) -> None:
    """Show what TARGET (or a FILE that forge built) is: tree, size, label, action key, build time, slices."""
    info = find_result(context.workspace, what, context.folder, context.store)
    slices = _slices(info.path)
    build = read_build_info(info.path)
    if as_json:
        print(json.dumps({"schema": 1, **_document(info), "slices": slices, "build": build}))
        return
    for name, value in _document(info).items():
        if value is not None:
            print(f"{name:<12} {value}")
    if slices:
        print(f"{'slices':<12} {' '.join(slices)}")
    for name, value in summarise(build or {}):
        print(f"{name:<12} {value}")


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
        "built by": trace.builder if trace else None,
        "signed by": " ".join(one.key for one in trace.signatures) or None if trace else None,
        "build time": console.format_duration(trace.seconds) if trace else None,
    }


def _slices(path: Path) -> list[str]:
    if not path.is_file() or path.stat().st_size < 64:
        return []
    with path.open("rb") as file:
        if not file.read(8).startswith(b"MZqFpD='"):
            return []
    return [one.name for one in read_container(path).slices]


@click.command("log")
@click.argument("target")
@click.pass_obj
def log(context: Context, target: str) -> None:
    """Print the log of the last build of TARGET, or of any node by its name, failed ones included."""
    with open_log(context.workspace, target, context.store, context.directories) as log:
        while chunk := log.read(1 << 16):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@click.command("shell")
@click.argument("name")
@click.argument("argv", nargs=-1)
@click.pass_obj
def shell(context: Context, name: str, argv: tuple[str, ...]) -> None:
    """Open a shell (or run ARGV) in the sandbox of the last failed build of NAME: same files, same environment."""
    request = failed_builds.with_terminal(failed_builds.request_of(context.directories.failed_build(name)))
    click.echo(
        f"In /build as the failed build of {name} left it; inputs are in /forge, outputs go to /forge/out.", err=True
    )
    sandbox = context.executor().shell_command(request, argv)
    for descriptor in sandbox.descriptors:
        os.set_inheritable(descriptor, True)
    os.umask(0o022)
    personality.take_on(personality.USUAL)
    # bwrap gets no environment: what it has can be read in the sandbox as that of process 1.
    os.execve(sandbox.argv[0], sandbox.argv, {})
