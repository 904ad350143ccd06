"""`forge package TARGET`: pack a server with its model, arguments, page and certificate, ready to ship.

The command is at the end. Before it come the tables and JSON that it prints about what it made, or would make.
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
    """Rows (place, file, size) of what each output would contain."""
    for plan in planned.plans:
        path = plan.output.path
        yield str(path), f"(in all, {plan.output.format})", console.format_size(plan.product().size)
        for entry in plan.layout.program.parts:
            yield str(path), entry.name, console.format_size(entry.size)
        for item in plan.layout.inside:
            yield str(path), item.name, console.format_size(item.size)
        for item in plan.layout.beside:
            yield SUPPORT, item.name, console.format_size(item.size)


def made_rows(written: Written) -> Iterator[tuple[str, str, str]]:
    """Rows (format, size, path) of what was written, and of the documents beside it."""
    for product in written.products:
        yield product.format, console.format_size(product.size), str(product.path)
        for document in written.documents:
            if document.product == product.path:
                yield document.kind, console.format_size(document.path.stat().st_size), str(document.path)


def document_of(prepared: Prepared, written: Written, *, written_now: bool) -> dict[str, Any]:
    """The JSON object of schema 1: written, warnings, products, files (name, size) and models by name.

    A product has format, path, size and files. Where there are any, it also has the digest of an image, and the paths
    of sbom, provenance and signature.
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
    """A line for each product that says how to start it."""
    for product in products:
        path = product.path
        shown = path if path.is_absolute() or len(path.parts) > 1 else f"./{path}"
        if product.format is Format.APE:
            yield f"start it: {shown}{f' (on macOS: sh {shown})' if portable else ''}"
        elif product.format is Format.EXE:
            yield f"on Windows: double-click {path.name}"
        elif product.format is Format.FOLDER:
            yield f"start it: {shown}/{product.files[0][0]}"
        elif product.format is Format.OCI:
            yield f"image {product.digest}; push it: skopeo copy --all --preserve-digests oci:{shown}:latest docker://…"
        elif product.format is Format.OCI_TAR:
            yield f"image {product.digest}; load it: podman load -i {shown}"
        else:
            yield f"unpack it, then start the program in it: unzip {shown}"


@click.command("package")
@click.argument("target")
@click.option(
    "-o",
    "--output",
    "out",
    type=_PATH,
    required=True,
    help="Where to write it; several formats get this name with endings of their own.",
)
@click.option("--model", "models", type=_PATH, multiple=True, help="A GGUF file; of a split model, its first part.")
@click.option("--mmproj", type=_PATH, help="The GGUF file with which the model sees or hears.")
@click.option("--args", type=_PATH, help="Arguments for the server, plain or .yaml (docs/args.md).")
@click.option(
    "--ui", metavar="FOLDER|NAME", help="A folder with index.html, or one of the server's pages: chat, complete."
)
@click.option("--cert", type=_PATH, help="A certificate for HTTPS, in PEM.")
@click.option("--key", type=_PATH, help="The certificate's private key, in PEM, unencrypted.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="SRC=NAME",
    help="Add a file or folder; the server finds it as /zip/NAME.",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="TARGET|FOLDER",
    help="A GPU backend: ggml-cuda, ggml-vulkan. The server uses it where a driver is installed (docs/modules.md).",
)
@set_option
@click.option("--remove", multiple=True, metavar="NAME", help="Remove this file or folder from the program.")
@click.option("--name", default="", help="Name of the server in its answers, and of the program in a folder.")
@click.option(
    "--format",
    "formats",
    type=click.Choice([form.value for form in Format]),
    multiple=True,
    help="ape: one file for all systems (default); exe: OUT.exe for Windows; folder, or a zip of it; oci, oci-tar: a "
    "container image. Repeatable.",
)
@click.option(
    "--sbom/--no-sbom",
    default=None,
    help="Also write the bill of materials and signed provenance beside it; or put no bill inside.",
)
@click.option(
    "--notices/--no-notices",
    default=True,
    help="Put the target's licence texts inside, as NOTICES.txt, or not.",
)
@click.option("--sign", is_flag=True, help="Write a signature beside it, as `forge sign` does.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what it would contain; write nothing.")
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
    """Pack the server TARGET with a model, arguments, a page and a certificate.

    TARGET is a target, which forge realizes first, or the path of a program: ./mmojo-server.ape. A program that was
    packaged before keeps whatever you do not replace.

    \b
    forge package mmojo-server.ape --model model.gguf -o hello.ape
    forge package ./hello.ape --args my-args --format zip -o hello.zip
    """
    options = DocumentOptions(sbom is not False, notices, bool(sbom), sign)
    chosen = tuple(Format(form) for form in formats) or (Format.APE,)
    if (options.beside or sign) and FOLDERS.issuperset(chosen):
        raise click.UsageError("--sbom and --sign write beside a file: add a --format that makes one.")
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
