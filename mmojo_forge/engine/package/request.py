"""`forge package`, from the user's request to products and documents.

PackageRequest ──prepare──▶ Prepared (planned, warnings) ──write──▶ Written (products, documents)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmojo_forge.ape.packaging.contents import PackageContents
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import FOLDERS, IMAGES, Format
from mmojo_forge.ape.packaging.package import OnTotalProgress, Product
from mmojo_forge.engine.package import documents, packaging
from mmojo_forge.engine.package.documents import DocumentOptions, Hashes, SidecarWriter, WrittenDocument
from mmojo_forge.engine.package.modules import find_modules, targets_of
from mmojo_forge.engine.package.packaging import Planned
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.sbom.bom import Bill
from mmojo_forge.engine.sbom.documents import bill_of, check_redistributable
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request

__all__ = [
    "FOLDERS",
    "DocumentOptions",
    "Format",
    "Inputs",
    "PackageRequest",
    "Prepared",
    "Product",
    "Written",
    "WrittenDocument",
    "prepare",
    "write",
]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the user packs with the program. `ui` is a folder or the name of a page; each of `files` is SRC=NAME."""

    models: tuple[Path, ...] = ()
    mmproj: Path | None = None
    args: Path | None = None
    ui: str | None = None
    cert: Path | None = None
    key: Path | None = None
    files: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    name: str = ""

    def order(self) -> PackageOrder:
        """The inputs as an order, whose program is filled in later."""
        folder, page = _page(self.ui)
        return PackageOrder(
            program=Path(),
            name=self.name,
            models=tuple(_named(path) for path in self.models),
            mmproj=_named(self.mmproj) if self.mmproj else None,
            args=_named(self.args) if self.args else None,
            page=page,
            ui=folder,
            cert=self.cert,
            key=self.key,
            files=tuple(_parse_file(text) for text in self.files),
            remove=self.remove,
        )


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """A package as the user requests it. `target` and `modules` are targets, or paths if they contain a slash."""

    target: str
    out: Path
    formats: tuple[Format, ...]
    inputs: Inputs
    modules: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    options: DocumentOptions = DocumentOptions()

    @property
    def is_target(self) -> bool:
        """Whether the program is a target, and not a file."""
        return "/" not in self.target

    @property
    def request(self) -> Request:
        """The request for the program and modules that are targets; raises WorkspaceError (`bad-setting`)."""
        return Request.parse((name for name in (self.target, *self.modules) if "/" not in name), self.settings)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A package that is ready to write, with warnings. `sidecar` writes the documents beside it, if any."""

    planned: Planned
    warnings: tuple[str, ...]
    sidecar: SidecarWriter | None


@dataclass(frozen=True, slots=True)
class Written:
    """The products that were written, and the documents beside them."""

    products: tuple[Product, ...]
    documents: tuple[WrittenDocument, ...] = ()


def prepare(
    session: Session, wanted: PackageRequest, make_reporter: Callable[[], Reporter], *, dry: bool = False
) -> Prepared:
    """Realise the program and the modules, and check all inputs. Writes no product.

    `dry` computes no hashes. Raises ForgeError if the request is invalid.
    """
    wanted, warnings = _usable_modules(wanted)
    order = wanted.inputs.order()
    warnings += packaging.check_inputs(order, time.time())
    run = _Run(session, wanted, make_reporter)
    order = run.complete(order)
    texts = _Documents(run, order.program, Hashes(skip=dry))
    planned = packaging.plan(order, wanted.out, wanted.formats, texts.add_to)
    sidecar = None if dry else texts.sidecar(_parameters(wanted, order))
    return Prepared(planned, (*warnings, *planned.warnings), sidecar)


def write(prepared: Prepared, report: OnTotalProgress) -> Written:
    """Write all products, or none if one fails, then the documents beside them; raises ForgeError."""
    products = packaging.write(prepared.planned, report)
    documents = prepared.sidecar.leave(prepared.planned.plans) if prepared.sidecar else ()
    return Written(tuple(products), tuple(documents))


def _usable_modules(wanted: PackageRequest) -> tuple[PackageRequest, list[str]]:
    """The request without its modules, and a warning, if all formats are images, which cannot use modules.

    The modules are then neither built nor listed in the bill.
    """
    if wanted.modules and IMAGES.issuperset(wanted.formats):
        return replace(wanted, modules=()), [
            "--module is ignored: GPU modules need glibc, which an image does not have"
        ]
    return wanted, []


@dataclass(slots=True)
class _Run:
    """Realises the program and the GPU modules. `complete` sets `targets` to those that provide the modules."""

    session: Session
    wanted: PackageRequest
    make_reporter: Callable[[], Reporter]
    targets: tuple[str, ...] = ()
    request: Request = field(init=False)

    def __post_init__(self) -> None:
        self.request = self.wanted.request

    def complete(self, order: PackageOrder) -> PackageOrder:
        """The order with the program file and the module folders filled in. Realises those that are targets."""
        if self.request.overrides:
            packaging.check_settings(self.session.workspace, self.request)
        order = replace(order, program=self._program())
        return replace(order, modules=self._modules(order.program))

    def bill_of(self, target: str) -> Bill:
        """The bill of one of the targets."""
        return bill_of(self.session.workspace, self.request.part(target), self.session.store)

    def _program(self) -> Path:
        target = self.wanted.target
        if not self.wanted.is_target:
            return Path(target)
        return packaging.realise_program(self.session.workspace, self.request.part(target), *self._how())

    def _modules(self, program: Path) -> tuple[NamedFile, ...]:
        given = self.wanted.modules
        self.targets = targets_of(given, program)
        if not self.targets:
            return find_modules(given, (), lambda _: ())
        request = self.request.part(*self.targets)
        return packaging.realise_modules(self.session.workspace, given, request, *self._how())

    def _how(self) -> tuple[Services, Settings]:
        return self.session.services(self.make_reporter()), self.session.settings()


@dataclass(slots=True)
class _Documents:
    """Makes the documents in the package and beside it. For a program that is a file, the bill has only its hash."""

    run: _Run
    program: Path
    hashes: Hashes
    _bill: Bill | None = None

    def bill(self) -> Bill:
        """The bill of the program and the modules; raises SbomError (`not-redistributable`)."""
        if self._bill is None:
            self._bill = self._of_program().joined(map(self.run.bill_of, self.run.targets))
            check_redistributable(self._bill)
        return self._bill

    def _of_program(self) -> Bill:
        wanted = self.run.wanted
        return self.run.bill_of(wanted.target) if wanted.is_target else documents.bill_of_file(self.program)

    def add_to(self, contents: PackageContents) -> PackageContents:
        """The contents with the documents that go into the package; raises SbomError (`not-redistributable`)."""
        wanted = self.run.wanted
        if wanted.is_target or self.run.targets:
            self.bill()
        contents = documents.with_folders_told(contents, (name for name in wanted.modules if "/" in name))
        if wanted.options.notices:
            contents = self._with_notices(contents)
        if not wanted.options.sbom:
            return documents.without_sbom(contents)
        if wanted.is_target:
            return documents.with_sbom(contents, self.bill(), self.hashes)
        return documents.with_sbom_renewed(contents, self.hashes)

    def _with_notices(self, contents: PackageContents) -> PackageContents:
        if self.run.wanted.is_target:
            return documents.with_notices(contents, self.bill(), self.run.session.store)
        for bill in map(self.run.bill_of, self.run.targets):
            contents = documents.with_notices_added(contents, bill, self.run.session.store)
        return contents

    def sidecar(self, parameters: dict[str, Any]) -> SidecarWriter | None:
        """The writer of the documents beside the package, with the user's key; None if the user wants none."""
        options = self.run.wanted.options
        if not (options.beside or options.sign):
            return None
        bill = self.bill() if options.beside else None
        return SidecarWriter(bill, parameters, self.run.session.any_keys().own(), self.hashes, options.sign)


def _parameters(wanted: PackageRequest, order: PackageOrder) -> dict[str, Any]:
    """The user's options for the provenance. Files appear by name, because paths would describe this machine."""
    given = {
        "target": wanted.target.rpartition("/")[2],
        "options": {name: dict(options) for name, options in wanted.request.overrides.items()},
        "formats": [str(form) for form in wanted.formats],
        "models": [file.name for file in order.models],
        "mmproj": order.mmproj.name if order.mmproj else "",
        "args": order.args.name if order.args else "",
        "page": order.page or (order.ui.name if order.ui else ""),
        "certificate": order.cert is not None,
        "files": [file.name for file in order.files],
        "modules": [file.name for file in order.modules],
        "remove": list(order.remove),
        "name": order.name,
    }
    return {name: value for name, value in given.items() if value}


def _named(path: Path) -> NamedFile:
    return NamedFile(path.name, path)


def _page(ui: str | None) -> tuple[Path | None, str]:
    """The folder to pack, or the name of a page. A word without a slash is a page, unless such a path exists here."""
    if ui is None:
        return None, ""
    is_name = "/" not in ui and not Path(ui).exists()
    return (None, ui) if is_name else (Path(ui), "")


def _parse_file(text: str) -> NamedFile:
    source, equals, name = text.rpartition("=")
    path = Path(source if equals else text)
    return NamedFile(name if equals else path.name, path)
