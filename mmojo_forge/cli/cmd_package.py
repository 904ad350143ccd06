"""`forge package TARGET`: a server with its model, arguments, page and certificate, ready to hand on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format
from mmojo_forge.ape.packaging.package import Product
from mmojo_forge.ape.program import Kind
from mmojo_forge.cli import table, units
from mmojo_forge.cli.context import Context
from mmojo_forge.cli.meter import Meter
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine import packaging
from mmojo_forge.engine.packaging import Planned

_PATH = click.Path(path_type=Path)


@click.command("package")
@click.argument("target")
@click.option(
    "-o", "--output", "out", type=_PATH, required=True, help="The file, or with one --format folder the folder."
)
@click.option("--model", "models", type=_PATH, multiple=True, help="A GGUF file; of a split one the first part.")
@click.option("--mmproj", type=_PATH, help="The GGUF file that lets the model see or hear.")
@click.option("--args", type=_PATH, help="Arguments for the server, plain or .yaml (docs/args.md).")
@click.option(
    "--ui", metavar="FOLDER|NAME", help="A folder with index.html, or a page that the server has: chat, complete."
)
@click.option("--cert", type=_PATH, help="Certificate for HTTPS, in PEM.")
@click.option("--key", type=_PATH, help="Its private key, in PEM, not encrypted.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="SRC=NAME",
    help="A file or folder more; the server finds it as /zip/NAME.",
)
@click.option("--remove", multiple=True, metavar="NAME", help="Leave this file or folder of the program out.")
@click.option("--name", default="", help="What the server is called: in its answers, and the program in a folder.")
@click.option(
    "--format",
    "formats",
    type=click.Choice([one.value for one in Format]),
    multiple=True,
    help="One file for all systems (ape, if not given), OUT.exe, a folder, a zip of it. More than one may be given.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be in it; write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def command(
    context: Context,
    /,
    target: str,
    out: Path,
    formats: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Put a model, arguments, a page and a certificate into the server TARGET, as one file or as a folder.

    TARGET is a target, which is realised first, or the path of a program that is here: ./mmojo-server.ape. A program
    that was packaged before keeps what is not given anew.

    \b
    forge package mmojo-server.ape --model model.gguf -o hello.ape
    forge package ./hello.ape --args my-args --format folder --format zip -o hello.ape
    """
    order = _order(**given)
    warnings = packaging.check_inputs(order, time.time())
    order = packaging.with_program(order, _program(context, target, quiet=quiet, as_json=as_json))
    planned = packaging.plan(order, out, [Format(one) for one in formats] or [Format.APE])
    for warning in (*warnings, *planned.warnings):
        click.echo(f"warning: {warning}", err=True)
    products = planned.products
    if not dry_run:
        products = _write(planned, quiet=quiet or as_json)
    if as_json:
        print(json.dumps(_document(planned, products, [*warnings, *planned.warnings], written=not dry_run)))
    elif dry_run:
        table.show(("where", "file", "size"), list(_rows(planned)))
    else:
        table.show(("format", "size", "path"), [(one.format, units.size(one.size), str(one.path)) for one in products])
        for line in _starts(products, portable=planned.contents.program.kind is Kind.APE):
            click.echo(line, err=True)


def _order(
    *,
    models: tuple[Path, ...],
    mmproj: Path | None,
    args: Path | None,
    ui: str | None,
    cert: Path | None,
    key: Path | None,
    files: tuple[str, ...],
    remove: tuple[str, ...],
    name: str,
) -> PackageOrder:
    """What is asked for, but for the program."""
    folder, page = _page(ui)
    return PackageOrder(
        program=Path(),
        name=name,
        models=tuple(_named(path) for path in models),
        mmproj=_named(mmproj) if mmproj else None,
        args=_named(args) if args else None,
        page=page,
        ui=folder,
        cert=cert,
        key=key,
        files=tuple(_parse_file(text) for text in files),
        remove=remove,
    )


def _named(path: Path) -> NamedFile:
    return NamedFile(path.name, path)


def _page(ui: str | None) -> tuple[Path | None, str]:
    """The folder to be packed, or the name of a page: a name is one word, and no folder here is called like it."""
    if ui is None:
        return None, ""
    is_name = "/" not in ui and not Path(ui).exists()
    return (None, ui) if is_name else (Path(ui), "")


def _parse_file(text: str) -> NamedFile:
    source, equals, name = text.rpartition("=")
    path = Path(source if equals else text)
    return NamedFile(name if equals else path.name, path)


def _program(context: Context, target: str, *, quiet: bool, as_json: bool) -> Path:
    if "/" in target:
        return Path(target)
    settings = context.settings()
    reporter = make_reporter(settings.jobs, as_json=as_json, quiet=quiet)
    return packaging.realise_program(context.workspace, target, context.world(reporter), settings)


def _write(planned: Planned, *, quiet: bool) -> list[Product]:
    if quiet:
        return packaging.write(planned, lambda _done, _total: None)
    with Meter("writing", sys.stderr) as meter:
        return packaging.write(planned, meter)


def _rows(planned: Planned) -> Iterator[tuple[str, str, str]]:
    """What would lie where, for each output."""
    for plan in planned.plans:
        path = plan.output.path
        yield str(path), f"(all of it, {plan.output.format})", units.size(plan.product().size)
        for entry in plan.layout.program.parts:
            yield str(path), entry.name, units.size(entry.size)
        for item in plan.layout.inside:
            yield str(path), item.name, units.size(item.size)
        for item in plan.layout.beside:
            yield names.SUPPORT, item.name, units.size(item.size)


def _document(
    planned: Planned, products: Sequence[Product], warnings: Sequence[str], *, written: bool
) -> dict[str, Any]:
    """Schema 1: written, warnings, products (format, path, size, files), files (name, size) and models by name."""
    return {
        "schema": 1,
        "written": written,
        "warnings": list(warnings),
        "products": [
            {
                "format": one.format,
                "path": str(one.path),
                "size": one.size,
                "files": [{"name": name, "size": size} for name, size in one.files],
            }
            for one in products
        ],
        "files": [{"name": item.name, "size": item.size} for item in planned.contents.items],
        "models": {
            name: {
                "architecture": facts.architecture,
                "name": facts.name,
                "parameters": facts.parameters,
                "quantization": facts.quantization,
                "size": facts.size,
            }
            for name, facts in planned.contents.models.items()
        },
    }


def _starts(products: Sequence[Product], *, portable: bool) -> Iterator[str]:
    """How each of them is started."""
    for one in products:
        shown = one.path if one.path.is_absolute() or len(one.path.parts) > 1 else f"./{one.path}"
        if one.format is Format.APE:
            yield f"start it: {shown}{f' (on macOS: sh {shown})' if portable else ''}"
        elif one.format is Format.EXE:
            yield f"on Windows: a double click on {one.path.name}"
        elif one.format is Format.FOLDER:
            yield f"start it: {shown}/{one.files[0][0]}"
        else:
            yield f"unpack it, then start the program in it: unzip {shown}"
