"""`forge ape args FILE`: show or change the arguments in a packaged program."""

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
@click.option("--set", "given", type=click.Path(path_type=Path), help="Replace them by those in this file.")
@click.option("--edit", is_flag=True, help="Edit them in $VISUAL or $EDITOR.")
@click.option("--clear", is_flag=True, help="Remove them; those that packaging wrote (model, page) stay.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Write a copy; leave FILE as it is.")
@json_option()
def args(file: Path, given: Path | None, edit: bool, clear: bool, out: Path | None, as_json: bool) -> None:
    """Show the arguments in FILE, or change them.

    A change replaces FILE in one step, or leaves it as it was.
    """
    if sum((given is not None, edit, clear)) > 1:
        raise click.UsageError("--set, --edit and --clear exclude each other.")
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
        files = [{"name": part.name, "text": part.text, "arguments": list(part.words)} for part in found]
        faults = [part.fault for part in found if part.fault]
        click.echo(json.dumps({"schema": 1, "files": files, "faults": faults}))
        return
    for part in found:
        if part.fault:
            click.echo(f"warning: {part.fault}", err=True)
        if len(found) > 1:
            click.echo(f"# {part.name}")
        click.echo(part.text, nl=bool(part.text) and not part.text.endswith("\n"))
    if not found:
        click.echo(f"{file} contains no arguments", err=True)


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
        click.echo(f"your text is kept in {edit.path}", err=True)
        raise
    shutil.rmtree(folder)


def _let_edit(edit: Edit) -> None:
    """Let the user edit until the arguments can be parsed; raises ApeError if nobody is there to try again."""
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
