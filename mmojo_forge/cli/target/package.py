"""`forge package TARGET`: a server with its model, arguments, page and certificate, ready to hand on.

What `forge package` says of what it made, or would make: for people, and for programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option, quiet_option, set_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.package.packaging import SUPPORT, Planned
from mmojo_forge.engine.package.request import (
    FOLDERS,
    DocumentOptions,
    Format,
    Inputs,
    PackageRequest,
    Prepared,
    Product,
    Written,
    prepare,
    write,
)
from mmojo_forge.engine.session import Session
from mmojo_forge.model.minisign import MinisignKey

_PATH = click.Path(path_type=Path)


def planned_rows(planned: Planned) -> Iterator[tuple[str, str, str]]:
    """What would lie where, for each output."""
    for plan in planned.plans:
        path = plan.output.path
        yield str(path), f"(all of it, {plan.output.format})", console.format_size(plan.product().size)
        for entry in plan.layout.program.parts:
            yield str(path), entry.name, console.format_size(entry.size)
        for item in plan.layout.inside:
            yield str(path), item.name, console.format_size(item.size)
        for item in plan.layout.beside:
            yield SUPPORT, item.name, console.format_size(item.size)


def made_rows(written: Written) -> Iterator[tuple[str, str, str]]:
    """What was made, and the documents beside it."""
    for product in written.products:
        yield product.format, console.format_size(product.size), str(product.path)
        for document in written.documents:
            if document.product == product.path:
                yield document.kind, console.format_size(document.path.stat().st_size), str(document.path)


def document_of(prepared: Prepared, written: Written, *, written_now: bool) -> dict[str, Any]:
    """Schema 1: written, warnings, products, files (name, size) and models by name.

    A product has format, path, size, files, and where there are such digest (of an image), sbom, provenance and
    signature (paths).
    """
    return {
        "schema": 1,
        "written": written_now,
        "warnings": list(prepared.warnings),
        "products": [
            {
                "format": product.format,
                "path": str(product.path),
                "size": product.size,
                "files": [{"name": name, "size": size} for name, size in product.files],
                **({"digest": product.digest} if product.digest else {}),
                **{
                    document.kind: str(document.path)
                    for document in written.documents
                    if document.product == product.path
                },
            }
            for product in written.products
        ],
        "files": [{"name": item.name, "size": item.size} for item in prepared.planned.contents.items],
        "models": {
            name: {
                "architecture": facts.architecture,
                "name": facts.name,
                "parameters": facts.parameters,
                "quantization": facts.quantization,
                "size": facts.size,
            }
            for name, facts in prepared.planned.contents.models.items()
        },
    }


def starts(products: Sequence[Product], *, portable: bool) -> Iterator[str]:
    """How each of them is started."""
    for one in products:
        shown = one.path if one.path.is_absolute() or len(one.path.parts) > 1 else f"./{one.path}"
        if one.format is Format.APE:
            yield f"start it: {shown}{f' (on macOS: sh {shown})' if portable else ''}"
        elif one.format is Format.EXE:
            yield f"on Windows: a double click on {one.path.name}"
        elif one.format is Format.FOLDER:
            yield f"start it: {shown}/{one.files[0][0]}"
        elif one.format is Format.OCI:
            yield f"image {one.digest}; push it: skopeo copy --all --preserve-digests oci:{shown}:latest docker://…"
        elif one.format is Format.OCI_TAR:
            yield f"image {one.digest}; load it: podman load -i {shown}"
        else:
            yield f"unpack it, then start the program in it: unzip {shown}"


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
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="TARGET|FOLDER",
    help="A GPU backend: ggml-cuda, ggml-vulkan. It is used where there is a driver for it (docs/modules.md).",
)
@set_option
@click.option("--remove", multiple=True, metavar="NAME", help="Leave this file or folder of the program out.")
@click.option("--name", default="", help="What the server is called: in its answers, and the program in a folder.")
@click.option(
    "--format",
    "formats",
    type=click.Choice([one.value for one in Format]),
    multiple=True,
    help="One file for all systems (ape, if not given), OUT.exe, a folder, a zip of it, a container image. More than "
    "one may be given.",
)
@click.option(
    "--sbom/--no-sbom",
    default=None,
    help="Also leave the bill of materials and signed provenance beside it; or leave out the bill inside.",
)
@click.option(
    "--notices/--no-notices", default=True, help="The target's licence texts inside, as NOTICES.txt; if not given, yes."
)
@click.option("--sign", is_flag=True, help="Leave a signature beside it, as `forge sign` does.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be in it; write nothing.")
@quiet_option
@json_option()
@click.pass_obj
def package(
    session: Session,
    /,
    target: str,
    out: Path,
    formats: tuple[str, ...],
    modules: tuple[str, ...],
    settings: tuple[str, ...],
    sbom: bool | None,
    notices: bool,
    sign: bool,
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
    options = DocumentOptions(sbom is not False, notices, bool(sbom), sign)
    chosen = tuple(Format(form) for form in formats) or (Format.APE,)
    if (options.beside or sign) and FOLDERS.issuperset(chosen):
        raise click.UsageError("--sbom and --sign leave something beside a file, and a folder is none.")
    wanted = PackageRequest(target, out, chosen, Inputs(**given), modules, settings, options)
    cores = session.settings().jobs
    prepared = prepare(session, wanted, lambda: make_reporter(cores, as_json=as_json, quiet=quiet), dry=dry_run)
    for warning in prepared.warnings:
        click.echo(f"warning: {warning}", err=True)
    planned = prepared.planned
    written = Written(tuple(planned.products)) if dry_run else _write(prepared, quiet=quiet or as_json)
    if as_json:
        click.echo(json.dumps(document_of(prepared, written, written_now=not dry_run)))
    elif dry_run:
        console.show_table(("where", "file", "size"), list(planned_rows(planned)))
    else:
        console.show_table(("format", "size", "path"), list(made_rows(written)))
        for line in starts(written.products, portable=planned.is_portable):
            click.echo(line, err=True)
        if sign:
            _tell_how_to_verify(session)


def _tell_how_to_verify(session: Session) -> None:
    public = MinisignKey.of(session.any_keys().own().public)
    click.echo(f"verify with: minisign -V -P {public.text} -m FILE, or forge verify FILE", err=True)


def _write(prepared: Prepared, *, quiet: bool) -> Written:
    if quiet:
        return write(prepared, lambda _done, _total: None)
    with Meter("writing", sys.stderr) as meter:
        return write(prepared, meter)
