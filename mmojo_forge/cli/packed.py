"""What `forge package` says of what it made, or would make: for people, and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.outputs import Format
from mmojo_forge.ape.packaging.package import Product
from mmojo_forge.cli import units
from mmojo_forge.engine.package_documents import Leaving
from mmojo_forge.engine.packaging import Planned


def planned_rows(planned: Planned) -> Iterator[tuple[str, str, str]]:
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


def made_rows(products: Sequence[Product], left: Sequence[Leaving]) -> Iterator[tuple[str, str, str]]:
    """What was made, and the documents beside it."""
    for one in products:
        yield one.format, units.size(one.size), str(one.path)
        for document in left:
            if document.product == one.path:
                yield document.kind, units.size(document.path.stat().st_size), str(document.path)


def document_of(
    planned: Planned,
    products: Sequence[Product],
    left: Sequence[Leaving],
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
