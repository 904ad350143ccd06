"""Packaging: all that was ordered is made beside its place, and appears when all of it is whole.

    ape      OUT, one file
    exe      the same bytes as OUT.exe; where Windows would not start so large a file: OUT.exe without the models,
             which lie in mmojo-server-support/ beside it
    folder   OUT/NAME, OUT/NAME.exe, OUT/mmojo-server-support/…
    zip      that folder as one file, the modes of programs kept, nothing compressed
    oci      a container image with a layer for each model, as a folder; oci-tar: as one file

The same order gives the same bytes, whether the program was packaged before or not: what lies before its assets never
changes, and they are written again, sorted, without times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from mmojo_forge.ape.files.copying import OnProgress
from mmojo_forge.ape.files.staging import Staging, link_or_copy
from mmojo_forge.ape.oci.image import Image, ImageOptions, measure_reading, stage_packaged_image
from mmojo_forge.ape.packaging import item_writer, names
from mmojo_forge.ape.packaging.contents import (
    OnDisk,
    PackageContents,
    PackageItem,
    PackageLayout,
    lay_out_beside,
    lay_out_for_image,
    lay_out_inside,
    lay_out_models_beside,
)
from mmojo_forge.ape.packaging.outputs import IMAGES, WINDOWS_LIMIT, Format, PackageOutput
from mmojo_forge.ape.packaging.sources import stamp_of
from mmojo_forge.ape.read.program import ProgramKind

_WHAT: Final = "package"
_PROGRAM_MODE: Final = 0o755

OnTotalProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class Product:
    """One thing that was made, or would be: its size in bytes, and what it consists of if it is several files.

    The size of an image is known when it is made, before that it is that of what goes into it; so is its digest, by
    which a registry knows it.
    """

    format: Format
    path: Path
    size: int
    files: tuple[tuple[str, int], ...] = ()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What will be written for one output: the layout, and the name of the program below the output's path, or an
    image's title. `skips_modules` says that there are GPU modules and that they are not in it."""

    output: PackageOutput
    layout: PackageLayout
    program: str
    size: int
    windows: bool
    skips_modules: bool = False

    def product(self) -> Product:
        """What comes of it."""
        rows = [(item.name, item.size) for item in self.layout.beside]
        beside = [(f"{names.SUPPORT}/{name}", size) for name, size in rows]
        if self.output.format in {Format.APE, Format.EXE}:
            return Product(self.output.format, self.output.path, self.size, tuple(beside))
        if self.output.format in IMAGES:
            return Product(self.output.format, self.output.path, self.size + sum(size for _, size in rows))
        programs = [(self.program, self.size)] + ([(f"{self.output.name}.exe", self.size)] if self.windows else [])
        if self.output.format is Format.ZIP:
            size = item_writer.measure_archive(_archived(self, Path(), self.size))
            return Product(self.output.format, self.output.path, size)
        return Product(
            self.output.format,
            self.output.path,
            self.size + sum(size for _, size in rows),
            tuple(dict([*programs, *beside]).items()),
        )


def plan_package(contents: PackageContents, outputs: Sequence[PackageOutput]) -> list[PackagePlan]:
    """What `write_package` would write, with its sizes; raises ApeError (`ape-name`). No effects."""
    return [_plan(contents, output) for output in outputs]


def _plan(contents: PackageContents, output: PackageOutput) -> PackagePlan:
    program = contents.program
    layout = lay_out_inside(contents)
    name = output.path.name
    windows = skips_modules = False
    if output.format is Format.EXE and item_writer.measure_program(layout) >= WINDOWS_LIMIT:
        layout = lay_out_models_beside(contents)
    elif output.format in IMAGES:
        # Whatever the output is called, the same order gives the same digests.
        layout, name = lay_out_for_image(contents), contents.head.alias
        skips_modules = any(names.is_module(item.name) for item in contents.items)
    elif output.format in {Format.FOLDER, Format.ZIP}:
        layout = lay_out_beside(contents)
        windows = program.kind is ProgramKind.APE and program.starts_on_windows
        name = output.name + (".exe" if program.kind is ProgramKind.PE else "")
    for item in layout.beside:
        names.check_portable(item.name)
    names.check_unique([item.name for item in layout.beside], folded=True)
    return PackagePlan(output, layout, name, item_writer.measure_program(layout), windows, skips_modules)


def warnings_of(plans: Sequence[PackagePlan]) -> list[str]:
    """What should be said beforehand of the sizes, and of what is skipped."""
    found = []
    formats = {plan.output.format for plan in plans}
    for plan in plans:
        large = plan.size >= WINDOWS_LIMIT
        if plan.output.format is Format.APE and large and plan.layout.program.starts_on_windows:
            hint = "" if Format.EXE in formats else ". For Windows add --format exe, which keeps the model beside it"
            found.append(
                f"{plan.output.path} will have {plan.size / 1e9:.2f} GB: Windows starts no program of 4 GiB "
                f"(4.29 GB) or more{hint}"
            )
        if plan.skips_modules:
            found.append(f"{plan.output.path}: an image has no glibc, which GPU modules need; they are not in it")
        if plan.output.format is Format.EXE and plan.layout.beside:
            found.append(
                f"{plan.output.path} would be larger than what Windows starts (4 GiB), so the model lies "
                f"beside it, in {names.SUPPORT}/; hand on both"
            )
    return found


def write_package(plans: Sequence[PackagePlan], report: OnTotalProgress, *, durable: bool = True) -> list[Product]:
    """Makes all of it, or nothing; raises ApeError. What was there before stays until all is whole."""
    total = sum(_to_copy(plan) for plan in plans)
    done = 0

    def on_progress(count: int) -> None:
        nonlocal done
        done += count
        report(min(done, total), total)

    images: dict[Path, Image] = {}
    with Staging(_WHAT, durable=durable) as staging:
        whole: PackagePlan | None = None
        for plan in plans:
            if plan.output.format is Format.EXE and whole and plan.layout == whole.layout:
                staging.twin(whole.output.path, plan.output.path)
                continue
            if plan.output.format in IMAGES:
                images[plan.output.path] = _write_image(plan, staging, on_progress)
            else:
                _write(plan, staging, on_progress)
            whole = plan if plan.output.format is Format.APE else whole
        staging.commit()
    return [_made(plan, images.get(plan.output.path)) for plan in plans]


def _made(plan: PackagePlan, image: Image | None) -> Product:
    product = plan.product()
    if image is None:
        return product
    found = [image.path] if image.path.is_file() else [path for path in image.path.rglob("*") if path.is_file()]
    return replace(product, size=sum(path.stat().st_size for path in found), digest=image.digest)


def _to_copy(plan: PackagePlan) -> int:
    if plan.output.format in IMAGES:
        return measure_reading(plan.layout, archive=plan.output.format is Format.OCI_TAR)
    return plan.size + sum(item.size for item in plan.layout.beside)


def _write(plan: PackagePlan, staging: Staging, on_progress: OnProgress) -> None:
    output = plan.output
    if output.format is Format.FOLDER:
        _write_folder(plan, staging, on_progress)
    elif output.format is Format.ZIP:
        _write_zip(plan, staging, on_progress)
    else:
        with staging.file(output.path, mode=_PROGRAM_MODE) as stream:
            item_writer.write_program(plan.layout, stream, on_progress)
        _write_beside(plan, output.path.parent / names.SUPPORT, staging, on_progress)


def _write_beside(plan: PackagePlan, folder: Path, staging: Staging, on_progress: OnProgress) -> None:
    for item in plan.layout.beside:
        path = folder / item.name
        staging.parents(path.parent)
        with staging.file(path, mode=_PROGRAM_MODE if item.executable else 0o644) as stream:
            item_writer.write_file(item, stream, on_progress)


def _write_image(plan: PackagePlan, staging: Staging, on_progress: OnProgress) -> Image:
    options = ImageOptions(title=plan.program)
    archive = plan.output.format is Format.OCI_TAR
    return stage_packaged_image(plan.layout, options, plan.output.path, staging, on_progress, archive=archive)


def _write_folder(plan: PackagePlan, staging: Staging, on_progress: OnProgress) -> None:
    folder = staging.folder(plan.output.path)
    program = folder / plan.program
    # Files in the staged folder need no names of their own to be staged under: the folder appears as a whole.
    staging.write(
        program, lambda stream: item_writer.write_program(plan.layout, stream, on_progress), mode=_PROGRAM_MODE
    )
    if plan.windows:
        link_or_copy(program, folder / f"{plan.output.name}.exe")
    (folder / names.SUPPORT).mkdir()
    for item in plan.layout.beside:
        path = folder / names.SUPPORT / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _PROGRAM_MODE if item.executable else 0o644
        staging.write(path, partial(item_writer.write_file, item, on_progress=on_progress), mode=mode)


def _write_zip(plan: PackagePlan, staging: Staging, on_progress: OnProgress) -> None:
    with staging.spare(plan.output.path) as program:
        staging.write(program, lambda stream: item_writer.write_program(plan.layout, stream, on_progress), mode=0o600)
        with staging.file(plan.output.path) as stream:
            item_writer.write_archive(_archived(plan, program, plan.size), stream, on_progress)


def _archived(plan: PackagePlan, program: Path, size: int) -> list[tuple[str, PackageItem]]:
    """The files of the folder by their names in its zip."""
    stamp = stamp_of(program.stat()) if program.is_file() else ()
    whole = PackageItem(plan.program, OnDisk(program, size, stamp), executable=True)
    top = plan.output.name
    rows = [(f"{top}/{plan.program}", whole)]
    if plan.windows:
        rows.append((f"{top}/{plan.output.name}.exe", whole))
    return rows + [(f"{top}/{names.SUPPORT}/{item.name}", item) for item in plan.layout.beside]
