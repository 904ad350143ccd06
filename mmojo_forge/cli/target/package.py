"""`forge package TARGET`: a server with its model, arguments, page and certificate, ready to hand on.

What `forge package` says of what it made, or would make: for people, and for programs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import Contents
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import FOLDERS, IMAGES, Format
from mmojo_forge.ape.packaging.package import Product
from mmojo_forge.ape.program import Kind
from mmojo_forge.cli import console
from mmojo_forge.cli.console import Meter
from mmojo_forge.cli.options import json_option, quiet_option, set_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.package import documents as package_documents
from mmojo_forge.engine.package import packaging
from mmojo_forge.engine.package.documents import DocumentOptions, Hashes, SidecarWriter, WrittenDocument
from mmojo_forge.engine.package.modules import find_modules, targets_of
from mmojo_forge.engine.package.packaging import Planned
from mmojo_forge.engine.sbom.bom import Bill
from mmojo_forge.engine.sbom.documents import bill_of, check_redistributable
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request
from mmojo_forge.model.minisign import MinisignKey


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
            yield names.SUPPORT, item.name, console.format_size(item.size)


def made_rows(products: Sequence[Product], left: Sequence[WrittenDocument]) -> Iterator[tuple[str, str, str]]:
    """What was made, and the documents beside it."""
    for one in products:
        yield one.format, console.format_size(one.size), str(one.path)
        for document in left:
            if document.product == one.path:
                yield document.kind, console.format_size(document.path.stat().st_size), str(document.path)


def document_of(
    planned: Planned,
    products: Sequence[Product],
    left: Sequence[WrittenDocument],
    warnings: Sequence[str],
    *,
    written: bool,
) -> dict[str, Any]:
    """Schema 1: written, warnings, products, files (name, size) and models by name.

    A product has format, path, size, files, and where there are such digest (of an image), sbom, provenance and
    signature (paths).
    """
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
                **({"digest": one.digest} if one.digest else {}),
                **{document.kind: str(document.path) for document in left if document.product == one.path},
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
    wish = DocumentOptions(sbom is not False, notices, bool(sbom), sign)
    chosen = [Format(one) for one in formats] or [Format.APE]
    if (wish.beside or sign) and FOLDERS.issuperset(chosen):
        raise click.UsageError("--sbom and --sign leave something beside a file, and a folder is none.")
    order = _order(**given)
    modules, warnings = _usable_modules(modules, chosen)
    warnings += packaging.check_inputs(order, time.time())
    realised = _Realised(session, target, modules, packaging.request_of(target, modules, settings), quiet, as_json)
    order = realised.completed(order)
    documents = _Documents(realised, order.program, wish, Hashes(skip=dry_run))
    planned = packaging.plan(order, out, chosen, documents.add_to)
    warnings += planned.warnings
    _warn(warnings)
    products, left = planned.products, list[WrittenDocument]()
    if not dry_run:
        beside = documents.beside(_parameters(realised, order, chosen))
        products = _write(planned, quiet=quiet or as_json)
        left = list(beside.leave(planned.plans)) if beside else []
    if as_json:
        click.echo(json.dumps(document_of(planned, products, left, warnings, written=not dry_run)))
    elif dry_run:
        console.show_table(("where", "file", "size"), list(planned_rows(planned)))
    else:
        console.show_table(("format", "size", "path"), list(made_rows(products, left)))
        for line in starts(products, portable=planned.contents.program.kind is Kind.APE):
            click.echo(line, err=True)
        if sign:
            _tell_how_to_verify(session)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _tell_how_to_verify(session: Session) -> None:
    public = MinisignKey.of(session.any_keys().own().public)
    click.echo(f"verify with: minisign -V -P {public.text} -m FILE, or forge verify FILE", err=True)


def _usable_modules(given: tuple[str, ...], formats: list[Format]) -> tuple[tuple[str, ...], list[str]]:
    """None for images alone, with a warning: they are not built for nothing, and no bill lists them."""
    if given and IMAGES.issuperset(formats):
        return (), ["an image has no glibc, which GPU modules need: --module is left out"]
    return given, []


@dataclass(slots=True)
class _Realised:
    """What the target and the GPU modules came to. `given` are the modules as they were asked for, `request` has the
    options of all that are targets; `targets` are those that the modules turned out to come from."""

    session: Session
    target: str
    given: tuple[str, ...]
    request: Request
    quiet: bool
    as_json: bool
    targets: tuple[str, ...] = ()

    @property
    def is_target(self) -> bool:
        """Whether the program is one, and not a file that was there."""
        return "/" not in self.target

    def completed(self, order: PackageOrder) -> PackageOrder:
        """The order with the program file of the target, or the one that is named by its path, and with the folders of
        modules."""
        if self.request.overrides:
            packaging.check_settings(self.session.workspace, self.request)
        order = packaging.with_program(order, self._program())
        return replace(order, modules=self._modules(order.program))

    def bill_of(self, target: str) -> Bill:
        """The bill of one of the targets."""
        return bill_of(self.session.workspace, self.request.part(target), self.session.store)

    def _program(self) -> Path:
        if not self.is_target:
            return Path(self.target)
        return packaging.realise_program(self.session.workspace, self.request.part(self.target), *self._how())

    def _modules(self, program: Path) -> tuple[NamedFile, ...]:
        self.targets = targets_of(self.given, program)
        if not self.targets:
            return find_modules(self.given, (), lambda _: ())
        request = self.request.part(*self.targets)
        return packaging.realise_modules(self.session.workspace, self.given, request, *self._how())

    def _how(self) -> tuple[Services, Settings]:
        settings = self.session.settings()
        return self.session.services(make_reporter(settings.jobs, as_json=self.as_json, quiet=self.quiet)), settings


@dataclass(slots=True)
class _Documents:
    """What is said of the package, in it and beside it. A target has a bill; of a file nobody knows what is in it, but
    it may tell itself."""

    realised: _Realised
    program: Path
    wish: DocumentOptions
    hashes: Hashes
    _bill: Bill | None = None

    def bill(self) -> Bill:
        """What is known of the program; raises SbomError if something in it may not be passed on."""
        if self._bill is None:
            self._bill = self._of_program().joined(map(self.realised.bill_of, self.realised.targets))
            check_redistributable(self._bill)
        return self._bill

    def _of_program(self) -> Bill:
        if self.realised.is_target:
            return self.realised.bill_of(self.realised.target)
        return package_documents.bill_of_file(self.program)

    def add_to(self, contents: Contents) -> Contents:
        """The same with the documents that go into it; raises SbomError for what may not be passed on."""
        if self.realised.is_target or self.realised.targets:
            self.bill()
        contents = package_documents.with_folders_told(contents, (one for one in self.realised.given if "/" in one))
        if self.wish.notices:
            contents = self._with_notices(contents)
        if not self.wish.sbom:
            return package_documents.without_sbom(contents)
        if self.realised.is_target:
            return package_documents.with_sbom(contents, self.bill(), self.hashes)
        return package_documents.with_sbom_renewed(contents, self.hashes)

    def _with_notices(self, contents: Contents) -> Contents:
        if self.realised.is_target:
            return package_documents.with_notices(contents, self.bill(), self.realised.session.store)
        for bill in map(self.realised.bill_of, self.realised.targets):
            contents = package_documents.with_notices_added(contents, bill, self.realised.session.store)
        return contents

    def beside(self, parameters: dict[str, Any]) -> SidecarWriter | None:
        """What is needed for documents beside it, with the key, which may be missing; None if there are none."""
        if not (self.wish.beside or self.wish.sign):
            return None
        bill = self.bill() if self.wish.beside else None
        return SidecarWriter(bill, parameters, self.realised.session.any_keys().own(), self.hashes, self.wish.sign)


def _parameters(realised: _Realised, order: PackageOrder, formats: list[Format]) -> dict[str, Any]:
    """What was asked for, by names: where files lay on this machine is nobody's business."""
    given = {
        "target": realised.target.rpartition("/")[2],
        "options": {name: dict(options) for name, options in realised.request.overrides.items()},
        "formats": [str(one) for one in formats],
        "models": [one.name for one in order.models],
        "mmproj": order.mmproj.name if order.mmproj else "",
        "args": order.args.name if order.args else "",
        "page": order.page or (order.ui.name if order.ui else ""),
        "certificate": order.cert is not None,
        "files": [one.name for one in order.files],
        "modules": [one.name for one in order.modules],
        "remove": list(order.remove),
        "name": order.name,
    }
    return {name: value for name, value in given.items() if value}


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


def _write(planned: Planned, *, quiet: bool) -> list[Product]:
    if quiet:
        return packaging.write(planned, lambda _done, _total: None)
    with Meter("writing", sys.stderr) as meter:
        return packaging.write(planned, meter)
