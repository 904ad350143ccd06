"""`forge ape args FILE`: the arguments in a program, shown and changed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.packaging.gather import look_through, read_old_arguments
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format
from mmojo_forge.ape.program import read_program
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.package import packaging
from mmojo_forge.engine.package.inspect import report_on


@click.command("args")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "given", type=click.Path(path_type=Path), help="Replace them by this file's, plain or .yaml.")
@click.option("--edit", is_flag=True, help="Replace them by what $VISUAL or $EDITOR makes of them.")
@click.option("--clear", is_flag=True, help="Drop them; what packaging wrote (which model, which page) stays.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Write a copy; FILE is left alone.")
@json_option()
def args(file: Path, given: Path | None, edit: bool, clear: bool, out: Path | None, as_json: bool) -> None:
    """Show the arguments in FILE, or change them: FILE is replaced in one step, or left as it was."""
    if sum((given is not None, edit, clear)) > 1:
        raise click.UsageError("Only one of --set, --edit and --clear.")
    if edit:
        _edit(file, out)
    elif given is not None:
        _replace(file, out, PackageOrder(file, args=NamedFile(given.name, given)))
    elif clear:
        _replace(file, out, PackageOrder(file, clear=True))
    else:
        _show(file, as_json=as_json)


def _show(file: Path, *, as_json: bool) -> None:
    program = read_program(file)
    report = report_on(file, program.assets, 0)
    if as_json:
        files = [{"name": one.name, "text": one.text, "arguments": list(one.words)} for one in report.arguments]
        click.echo(
            json.dumps({"schema": 1, "files": files, "faults": [one.fault for one in report.arguments if one.fault]})
        )
        return
    for one in report.arguments:
        if one.fault:
            click.echo(f"warning: {one.fault}", err=True)
        if len(report.arguments) > 1:
            click.echo(f"# {one.name}")
        click.echo(one.text, nl=bool(one.text) and not one.text.endswith("\n"))
    if not report.arguments:
        click.echo(f"there are no arguments in {file}", err=True)


def _edit(file: Path, out: Path | None) -> None:
    old = read_old_arguments(read_program(file))
    if old.yaml is not None and old.given is not None:
        raise ApeError(
            f"edit arguments of {file}: it has both forms of them",
            detail="Take them out with `forge ape extract`, and give one file with --set.",
            reason=ApeReason.ARGUMENTS,
        )
    name = head.YAML_NAME if old.yaml is not None else head.NAME
    before = old.yaml or old.given or b""
    folder = Path(tempfile.mkdtemp(prefix="forge-args-"))
    path = folder / name
    path.write_bytes(before)
    order = PackageOrder(file, args=NamedFile(name, path))
    try:
        _let_edit(path, order)
        if path.read_bytes() == before:
            click.echo("nothing changed", err=True)
        else:
            _replace(file, out, order)
    except BaseException:
        click.echo(f"what you wrote is in {path}", err=True)
        raise
    shutil.rmtree(folder)


def _let_edit(path: Path, order: PackageOrder) -> None:
    """Returns when what was written can be read."""
    while True:
        click.edit(filename=str(path))
        try:
            look_through(order)
            return
        except ApeError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"error: {error.message}", err=True)
            if not click.confirm("Edit again?", default=True, err=True):
                raise


def _replace(file: Path, out: Path | None, order: PackageOrder) -> None:
    if out is None and file.is_symlink():
        raise ApeError(
            f"change arguments of {file}: it is a link, to {file.resolve()}",
            detail="What lies in a store is never changed. Write a copy with -o FILE.",
            reason=ApeReason.OUTPUT,
        )
    planned = packaging.plan(order, out or file, [Format.APE])
    with Meter("writing", sys.stderr) as meter:
        packaging.write(planned, meter)
