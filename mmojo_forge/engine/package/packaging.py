"""`forge package`: a target is realised, looked at with all that goes with it, and written.

The files are made by `ape/packaging`, which recipes use as well. Here is what needs more than the standard library,
and what needs a workspace.

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
    """What would be written, and what should be said of it beforehand."""

    contents: PackageContents
    plans: tuple[PackagePlan, ...]
    warnings: tuple[str, ...]

    @property
    def is_portable(self) -> bool:
        """Whether the program is an APE."""
        return self.contents.program.kind is ProgramKind.APE

    @property
    def products(self) -> list[Product]:
        """What would come of it."""
        return [plan.product() for plan in self.plans]


def check_inputs(order: PackageOrder, now: float) -> list[str]:
    """What is to be said of all that goes with the program, which need not be there yet; raises ForgeError."""
    look_through(order)
    if order.cert is None or order.key is None:
        return []
    certificate = read_certificate(read_text(order.cert, CERT), str(order.cert))
    check_key(certificate, read_text(order.key, KEY), str(order.key))
    return certificate.warnings(now)


def check_settings(workspace: Workspace, request: Request) -> None:
    """Raises RecipeError for an option that there is not, before anything is realised."""
    evaluate(workspace, request)


def realise_program(workspace: Workspace, request: Request, services: Services, settings: Settings) -> Path:
    """The program file of the request's one target, which is realised; raises ForgeError (`no-program`)."""
    (result,) = realise_request(workspace, request, services, settings)
    return find_program(result.path, result.target)


def realise_modules(
    workspace: Workspace, given: Sequence[str], request: Request, services: Services, settings: Settings
) -> tuple[NamedFile, ...]:
    """The GPU modules that are given as folders, and those that the request's targets are realised to; raises
    ForgeError."""

    def realise(names: Sequence[str]) -> list[Path]:
        return [result.path for result in realise_request(workspace, request.part(*names), services, settings)]

    return find_modules(given, request.targets, realise)


def find_program(result: Path, target: str) -> Path:
    """The program in a target's result: the file itself, or the one in bin/ that is called like the target."""
    if result.is_file():
        return result
    name = target_name(target).partition(".")[0]
    found = sorted(path for path in (result / "bin").glob("*") if path.is_file())
    called = [path for path in found if path.name.removesuffix(".exe") == name]
    if len(called or found) == 1:
        return (called or found)[0]
    raise EngineError(
        f"package {target}: {'no program' if not found else 'more than one program'} in {result}",
        detail="It must be one file, or a folder with the program in bin/. Name a file by its path: ./FILE",
        reason="no-program",
    )


def plan(
    order: PackageOrder,
    out: Path,
    formats: Sequence[Format],
    document: Callable[[PackageContents], PackageContents] = lambda contents: contents,
) -> Planned:
    """What the order comes to, with the documents that `document` adds; raises ForgeError for all that can be wrong
    with it. Writes nothing."""
    contents = gather(order)
    outputs = choose_outputs(out, formats, order.name, contents.program)
    contents = document(contents)
    plans = plan_package(contents, outputs)
    return Planned(contents, tuple(plans), (*contents.notes, *warnings_of(plans)))


def write(planned: Planned, report: OnTotalProgress) -> list[Product]:
    """Makes all of it, or nothing; raises ForgeError."""
    return write_package(planned.plans, report)
