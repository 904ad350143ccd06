"""`forge ape args FILE`: the arguments in a program, shown and changed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click

from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option
from mmojo_forge.engine.package import arguments
from mmojo_forge.engine.package.arguments import ApeError, Edit


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
        return
    if given is None and not clear:
        _show(file, as_json=as_json)
        return
    with Meter("writing", sys.stderr) as meter:
        if given is not None:
            arguments.replace(file, out, given, meter)
        else:
            arguments.clear(file, out, meter)


def _show(file: Path, *, as_json: bool) -> None:
    found = arguments.show(file)
    if as_json:
        files = [{"name": each.name, "text": each.text, "arguments": list(each.words)} for each in found]
        faults = [each.fault for each in found if each.fault]
        click.echo(json.dumps({"schema": 1, "files": files, "faults": faults}))
        return
    for each in found:
        if each.fault:
            click.echo(f"warning: {each.fault}", err=True)
        if len(found) > 1:
            click.echo(f"# {each.name}")
        click.echo(each.text, nl=bool(each.text) and not each.text.endswith("\n"))
    if not found:
        click.echo(f"there are no arguments in {file}", err=True)


def _edit(file: Path, out: Path | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="forge-args-"))
    edit = Edit.begin(file, folder)
    try:
        _let_edit(edit)
        if edit.changed:
            with Meter("writing", sys.stderr) as meter:
                edit.apply(out, meter)
        else:
            click.echo("nothing changed", err=True)
    except BaseException:
        click.echo(f"what you wrote is in {edit.path}", err=True)
        raise
    shutil.rmtree(folder)


def _let_edit(edit: Edit) -> None:
    """Return when what was written can be read."""
    while True:
        click.edit(filename=str(edit.path))
        try:
            edit.check()
            return
        except ApeError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"error: {error.message}", err=True)
            if not click.confirm("Edit again?", default=True, err=True):
                raise
