"""The steps of `forge package`: check inputs, realise the program and modules, plan, write.

`ape/packaging` makes the files; recipes use it too, so it needs only the standard library. This module adds what needs
other libraries or a workspace.

    inputs ──check_inputs──▶ (realise) ──▶ program ──plan──▶ Planned ──write──▶ products
                                                  └─ documents join the contents here (documents.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape.packaging.contents import PackageContents
from mmojo_forge.ape.packaging.gather import gather, look_through
from mmojo_forge.ape.packaging.names import CERT, KEY, SUPPORT
from mmojo_forge.ape.packaging.order import NamedFile, PackageOrder
from mmojo_forge.ape.packaging.outputs import Format, choose_outputs
from mmojo_forge.ape.packaging.package import (
    OnTotalProgress,
    PackagePlan,
    Product,
    plan_package,
    warnings_of,
    write_package,
)
from mmojo_forge.ape.packaging.sources import read_text
from mmojo_forge.ape.read.program import ProgramKind
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.package.certificates import check_key, read_certificate
from mmojo_forge.engine.package.modules import find_modules
from mmojo_forge.engine.realise.run import realise_request
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.workspace import Request, Workspace, target_name

__all__ = [
    "SUPPORT",
    "Planned",
    "check_inputs",
    "check_settings",
    "find_program",
    "plan",
    "realise_modules",
    "realise_program",
    "write",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned package: its contents, a plan for each product, and warnings to show before it is written."""

    contents: PackageContents
    plans: tuple[PackagePlan, ...]
    warnings: tuple[str, ...]

    @property
    def is_portable(self) -> bool:
        """Whether the program is an APE."""
        return self.contents.program.kind is ProgramKind.APE

    @property
    def products(self) -> list[Product]:
        """The products that writing the plan would make."""
        return [plan.product() for plan in self.plans]


def check_inputs(order: PackageOrder, now: float) -> list[str]:
    """Check everything that is packed with the program; returns warnings. The program need not exist yet.

    `now` is in seconds since the epoch. Raises ForgeError.
    """
    look_through(order)
    if order.cert is None or order.key is None:
        return []
    certificate = read_certificate(read_text(order.cert, CERT), str(order.cert))
    check_key(certificate, read_text(order.key, KEY), str(order.key))
    return certificate.warnings(now)


def check_settings(workspace: Workspace, request: Request) -> None:
    """Raise RecipeError for an unknown or unused option, before anything is realised."""
    evaluate(workspace, request)


def realise_program(workspace: Workspace, request: Request, services: Services, settings: Settings) -> Path:
    """Realise the request's one target; returns its program file. Raises ForgeError, among others `no-program`."""
    (result,) = realise_request(workspace, request, services, settings)
    return find_program(result.path, result.target)


def realise_modules(
    workspace: Workspace, given: Sequence[str], request: Request, services: Services, settings: Settings
) -> tuple[NamedFile, ...]:
    """The GPU modules: folders in `given`, and the results of the request's targets. Raises ForgeError."""

    def realise(names: Sequence[str]) -> list[Path]:
        return [result.path for result in realise_request(workspace, request.part(*names), services, settings)]

    return find_modules(given, request.targets, realise)


def find_program(result: Path, target: str) -> Path:
    """The program in a target's result: the file itself, or the one in bin/ with the target's name.

    A single program in bin/ may have any name. Raises EngineError (`no-program`).
    """
    if result.is_file():
        return result
    name = target_name(target).partition(".")[0]
    found = sorted(path for path in (result / "bin").glob("*") if path.is_file())
    called = [path for path in found if path.name.removesuffix(".exe") == name]
    if len(called or found) == 1:
        return (called or found)[0]
    raise EngineError(
        f"package {target}: there is {'no program' if not found else 'more than one program'} in {result}",
        detail="The result must be one file, or a folder with one program in bin/. To package a file, name its path: "
        "./FILE",
        reason="no-program",
    )


def plan(
    order: PackageOrder,
    out: Path,
    formats: Sequence[Format],
    document: Callable[[PackageContents], PackageContents] = lambda contents: contents,
) -> Planned:
    """The plan of an order, with the documents that `document` adds. Writes nothing; raises ForgeError."""
    contents = gather(order)
    outputs = choose_outputs(out, formats, order.name, contents.program)
    contents = document(contents)
    plans = plan_package(contents, outputs)
    return Planned(contents, tuple(plans), (*contents.notes, *warnings_of(plans)))


def write(planned: Planned, report: OnTotalProgress) -> list[Product]:
    """Write all products, or none if one fails; raises ForgeError."""
    return write_package(planned.plans, report)
