"""Making a container image of a packaged server, for each Linux that its file has slices for.

The program holds all that belongs into it; its models lie beside it. Nothing in an image depends on the clock, the
machine or the folder it is made in: the same server gives the same digests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mmojo_forge.ape.errors import ApeError, ApeReason, OciError, OciReason
from mmojo_forge.ape.files.copying import OnProgress
from mmojo_forge.ape.files.staging import Staging
from mmojo_forge.ape.oci import document, layers
from mmojo_forge.ape.oci.blobs import Blobs, open_layout
from mmojo_forge.ape.oci.document import ImageBlob, Platform, Start
from mmojo_forge.ape.oci.layers import make_program
from mmojo_forge.ape.oci.tar import Bytes, ByteSource, Counted, FilePart, Hashed
from mmojo_forge.ape.packaging import item_writer
from mmojo_forge.ape.packaging.contents import (
    InMemory,
    InProgram,
    OnDisk,
    PackageContents,
    PackageItem,
    PackageLayout,
    lay_out_for_image,
)
from mmojo_forge.ape.packaging.names import SUPPORT, is_model
from mmojo_forge.ape.packaging.sources import stamp_of
from mmojo_forge.ape.read import container
from mmojo_forge.ape.read.container import Container

_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# overlayfs takes 128 layers, some container engines fewer.
_MOST_LAYERS: Final = 100
_BUILD_INFO: Final = "build-info.json"
_TITLE: Final = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What an image is called, and the arguments that whoever starts a container can replace.

    `annotations` come on top of title, version and revision.
    """

    tag: str = "latest"
    title: str = ""
    command: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.tag):
            raise OciError(
                f"make an image: {self.tag!r} is no tag", detail=f"A tag matches {_TAG.pattern}.", reason=OciReason.TAG
            )


@dataclass(frozen=True, slots=True)
class ImageDestination:
    """Where an image goes, and an empty folder beside it, where there is room for what is needed to make it."""

    out: Path
    staging: Staging
    scratch: Path
    archive: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """What `write_image` wrote. `digest` is what a registry calls the image for all platforms."""

    path: Path
    digest: str
    platforms: tuple[str, ...]


def write_image(
    program: Path, support: Mapping[str, ByteSource], options: ImageOptions, out: Path, *, archive: bool = False
) -> Image:
    """Writes an image of the APE `program` and the files of its support folder to `out`, which is replaced whole.

    It is a layout folder, which reads the sources once, or a tar of it (`oci-archive`), which reads them twice.
    Raises OciError and ApeError.
    """
    with Staging("write image") as staging:
        with staging.spare(out) as scratch:
            scratch.mkdir()
            made = stage_image(program, support, options, ImageDestination(out, staging, scratch, archive))
        staging.commit()
    return made


def stage_image(
    program: Path, support: Mapping[str, ByteSource], options: ImageOptions, target: ImageDestination
) -> Image:
    """The same, but it appears when the target's staging is committed."""
    ape = container.read_container(program)
    platforms = _platforms(ape)
    _check_models(ape)
    annotations = {**_annotations(ape, options.title), **options.annotations}
    start = Start(f"/{ape.program}", options.command, f"/{layers.cache_folder(ape.program)}", annotations)
    with open_layout(target.out, target.staging, archive=target.archive) as blobs:
        shared = list(_put_support(blobs, support))
        manifests = []
        for platform in platforms:
            folder = target.scratch / platform.architecture
            folder.mkdir()
            all_layers = [*shared, _put_program(blobs, ape, platform, folder)]
            shutil.rmtree(folder)
            configuration = _put_document(blobs, document.CONFIG, document.config(platform, start, all_layers))
            made = document.manifest(configuration, all_layers, annotations)
            manifests.append((platform, _put_document(blobs, document.MANIFEST, made)))
        image = _put_document(blobs, document.INDEX, document.index(manifests, annotations))
        blobs.finish(document.layout(image, options.tag))
    return Image(target.out, image.digest, tuple(str(platform) for platform in platforms))


def _platforms(ape: Container) -> list[Platform]:
    systems = {record.system for record in ape.slices} & {record.system for record in ape.launchers}
    found = [platform for platform in document.PLATFORMS if platform.system in systems]
    if not found:
        raise OciError(
            f"make an image of {ape.path}: it has nothing that runs on Linux",
            detail="it has slices for: " + ", ".join(sorted({record.system for record in ape.slices})),
            reason=OciReason.NO_PLATFORM,
        )
    return found


def _check_models(ape: Container) -> None:
    """A model in the program would be there once for each platform, and be sent again with each new program."""
    for entry in ape.entries:
        if is_model(entry.name):
            raise OciError(
                f"make an image of {ape.path}: the model {entry.name} lies in it",
                detail="`forge package --format oci` puts models into layers of their own.",
                reason=OciReason.MODEL_INSIDE,
            )


def _put_support(blobs: Blobs, files: Mapping[str, ByteSource]) -> Iterator[ImageBlob]:
    models = {name: source for name, source in sorted(files.items()) if is_model(name)}
    others = {name: source for name, source in files.items() if name not in models}
    if len(models) + 2 > _MOST_LAYERS:
        raise OciError(
            f"make an image: {len(models)} models are more layers than an image can have",
            detail="Join the parts of a split model with llama-gguf-split --merge.",
            reason=OciReason.LAYERS,
        )
    for name, source in models.items():
        hashed = Hashed(source)
        tar = layers.support_layer({name: hashed})
        sha256 = blobs.put(tar)
        notes = {_TITLE: name, "mmojo-forge.sha256": hashed.sha256}
        yield ImageBlob(document.LAYER, sha256, tar.size, f"model {name}", notes)
    if others:
        tar = layers.support_layer(others)
        yield ImageBlob(document.LAYER, blobs.put(tar), tar.size, f"files of {SUPPORT}", {_TITLE: SUPPORT})


def _put_program(blobs: Blobs, ape: Container, platform: Platform, folder: Path) -> ImageBlob:
    program = make_program(ape, platform.system, folder)
    tar = layers.program_layer(ape, program)
    slices = {f"mmojo-forge.slice.{record.name}": f"sha256:{record.sha256}" for record, _ in program.slices}
    notes = {_TITLE: ape.program, **slices}
    return ImageBlob(document.LAYER, blobs.put(tar), tar.size, f"{ape.program} for {platform}", notes)


def _put_document(blobs: Blobs, media_type: str, data: bytes) -> ImageBlob:
    return ImageBlob(media_type, blobs.put(Bytes(data)), len(data))


def _annotations(ape: Container, title: str) -> dict[str, str]:
    """What is known of the program, by the names that image-spec's annotations.md gives them."""
    llama = _llama(ape)
    known = {"title": title or ape.program, "version": llama.get("version"), "revision": llama.get("commit")}
    return {f"org.opencontainers.image.{name}": str(value) for name, value in known.items() if value}


def _llama(ape: Container) -> dict[str, Any]:
    """What the build says of its llama.cpp, if it says anything."""
    with zipfile.ZipFile(ape.path) as archive:
        try:
            info = json.loads(archive.read(_BUILD_INFO))
        except (KeyError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
            return {}
    llama = info.get("llama.cpp") if isinstance(info, dict) else None
    return llama if isinstance(llama, dict) else {}


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
    contents: PackageContents, options: ImageOptions, out: Path, on_progress: OnProgress, *, archive: bool = False
) -> Image:
    """Writes the image to `out`; calls `on_progress` for `measure_reading` bytes. Raises OciError and ApeError."""
    titled = replace(options, title=options.title or contents.head.alias)
    with Staging("write image") as staging:
        made = stage_packaged_image(lay_out_for_image(contents), titled, out, staging, on_progress, archive=archive)
        staging.commit()
    return made


def stage_packaged_image(
    layout: PackageLayout, options: ImageOptions, out: Path, staging: Staging, on_progress: OnProgress, *, archive: bool
) -> Image:
    """The same of a layout whose models lie beside the program; it appears when `staging` is committed."""
    support = {item.name: Counted(_source(item), on_progress) for item in layout.beside}
    with staging.spare(out) as scratch:
        scratch.mkdir()
        program = scratch / "program"
        with program.open("w+b") as stream:
            item_writer.write_program(layout, stream, on_progress)
        return stage_image(program, support, options, ImageDestination(out, staging, scratch, archive))


def measure_reading(layout: PackageLayout, *, archive: bool) -> int:
    """How many bytes `stage_packaged_image` will report to `on_progress`."""
    models = sum(item.size for item in layout.beside)
    return item_writer.measure_program(layout) + models * (2 if archive else 1)


def _source(item: PackageItem) -> ByteSource:
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
        case InMemory(data=data):
            return Bytes(data)
