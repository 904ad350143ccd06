"""An image of what was gathered to be packaged: the program with all that belongs into it, its models beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.ape.copying import OnProgress
from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.oci.error import OciError, OciReason
from mmojo_forge.ape.oci.image import Image, ImageOptions, Target, stage_image
from mmojo_forge.ape.oci.source import Bytes, Counted, FilePart, Source
from mmojo_forge.ape.packaging import files
from mmojo_forge.ape.packaging.contents import Contents, InProgram, Item, Layout, Made, OnDisk, lay_out_for_image
from mmojo_forge.ape.packaging.sources import stamp_of
from mmojo_forge.ape.staging import Staging


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """A file as it was when it was looked at."""

    origin: OnDisk

    @property
    def size(self) -> int:
        return self.origin.size

    def chunks(self) -> Iterator[bytes]:
        self._check()
        yield from FilePart(self.origin.path, 0, self.origin.size).chunks()
        self._check()

    def _check(self) -> None:
        try:
            stamp = stamp_of(os.stat(self.origin.path))
        except OSError as error:
            raise ApeError(f"read {self.origin.path}: {error.strerror}", reason=ApeReason.INPUT) from error
        if stamp != self.origin.stamp:
            raise OciError(f"read {self.origin.path}: it changed while it was read", reason=OciReason.CHANGED)


def write_packaged_image(
    contents: Contents, options: ImageOptions, out: Path, on_progress: OnProgress, *, archive: bool = False
) -> Image:
    """Writes the image to `out`; `on_progress` hears of `measure_reading` bytes. Raises OciError and ApeError."""
    titled = replace(options, title=options.title or contents.head.alias)
    with Staging("write image") as staging:
        made = stage_packaged_image(lay_out_for_image(contents), titled, out, staging, on_progress, archive=archive)
        staging.commit()
    return made


def stage_packaged_image(
    layout: Layout, options: ImageOptions, out: Path, staging: Staging, on_progress: OnProgress, *, archive: bool
) -> Image:
    """The same of a layout whose models lie beside the program; it appears when `staging` is committed."""
    support = {item.name: Counted(_source(item), on_progress) for item in layout.beside}
    with staging.spare(out) as scratch:
        scratch.mkdir()
        program = scratch / "program"
        with program.open("w+b") as stream:
            files.write_program(layout, stream, on_progress)
        return stage_image(program, support, options, Target(out, staging, scratch, archive))


def measure_reading(layout: Layout, *, archive: bool) -> int:
    """How many bytes `stage_packaged_image` will tell of."""
    models = sum(item.size for item in layout.beside)
    return files.measure_program(layout) + models * (2 if archive else 1)


def _source(item: Item) -> Source:
    match item.origin:
        case OnDisk():
            return _Unchanged(item.origin)
        case InProgram(path=path, entry=entry):
            if entry.deflated:
                raise ApeError(
                    f"make an image: the model {item.name} is compressed in {path}",
                    detail="Give it anew: --model FILE.",
                    reason=ApeReason.UNMAPPED,
                )
            return FilePart(path, entry.offset, entry.size, entry.crc)
        case Made(data=data):
            return Bytes(data)
