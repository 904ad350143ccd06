"""Models that are given to be packaged: whole, of the right kind, and with all their parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import InProgram, OnDisk, PackageItem
from mmojo_forge.ape.packaging.order import NamedFile
from mmojo_forge.ape.packaging.sources import look_at
from mmojo_forge.ape.read.gguf import Gguf, read_gguf

_PROJECTOR = "clip"


def look_at_models(models: Sequence[NamedFile]) -> list[tuple[PackageItem, Gguf]]:
    """Each model, and every part of those that are split, checked; raises ApeError (`ape-model`, `ape-name`)."""
    found = []
    for name, path in _with_parts(models):
        if not names.is_model(name):
            raise ApeError(
                f"package model {path}: {name!r} is not NAME.gguf",
                detail="The server finds models by that ending.",
                reason=ApeReason.NAME,
            )
        item = look_at(name, path, "model")
        facts = read_item(item)
        _check_kind(facts, path, wants_projector=False)
        _check_part(facts, name, path)
        found.append((item, facts))
    return found


def look_at_projector(file: NamedFile) -> tuple[PackageItem, Gguf]:
    """What lets a model see or hear, checked; raises ApeError (`ape-model`, `ape-name`)."""
    if not names.is_model(file.name):
        raise ApeError(f"package mmproj {file.path}: {file.name!r} is not NAME.gguf", reason=ApeReason.NAME)
    item = look_at(file.name, file.path, "mmproj")
    facts = read_item(item)
    _check_kind(facts, file.path, wants_projector=True)
    return item, facts


def read_item(item: PackageItem) -> Gguf:
    """What a model says of itself; raises ApeError (`ape-model`, `ape-unmapped`)."""
    if isinstance(item.origin, OnDisk):
        with content.open_input(item.origin.path, "model") as stream:
            return read_gguf(stream, 0, item.size, str(item.origin.path))
    assert isinstance(item.origin, InProgram)
    entry, path = item.origin.entry, item.origin.path
    if entry.deflated:
        raise ApeError(
            f"package {path}: {item.name} in it is compressed, so that it cannot be mapped",
            detail=f"Leave it out with `--remove {item.name}`, or give the model again with --model.",
            reason=ApeReason.UNMAPPED,
        )
    with content.open_input(path, "program") as stream:
        return read_gguf(stream, entry.offset, entry.size, f"{item.name} in {path}")


def _with_parts(models: Sequence[NamedFile]) -> Iterator[tuple[str, Path]]:
    given = {model.name for model in models}
    for model in models:
        yield model.name, model.path
        split = names.split_parts(model.name)
        if split is None:
            continue
        stem, number, count = split
        if number != 1 and names.part_name(stem, 1, count) not in given:
            raise ApeError(
                f"package model {model.path}: part {number} of {count}",
                detail=f"Give the first part, {names.part_name(stem, 1, count)}; the others are found beside it.",
                reason=ApeReason.MODEL,
            )
        for other in range(2, count + 1) if number == 1 else ():
            name = names.part_name(stem, other, count)
            if name not in given:
                yield name, _beside(model.path, name, other, count)


def _beside(first: Path, name: str, number: int, count: int) -> Path:
    path = first.with_name(name)
    if not path.is_file():
        raise ApeError(
            f"package model {first}: part {number} of {count} is missing: {path}",
            detail="A split model is of no use without all its parts.",
            reason=ApeReason.MODEL,
        )
    return path


def _check_kind(facts: Gguf, path: Path, *, wants_projector: bool) -> None:
    is_projector = facts.architecture == _PROJECTOR or facts.kind == "mmproj"
    if facts.kind == "adapter":
        raise ApeError(
            f"package model {path}: an adapter (LoRA), not a model",
            detail=f"It lies beside the program: --format folder --file {path}=lora/{path.name}, and "
            f"`--lora /support/lora/{path.name}` as an argument.",
            reason=ApeReason.MODEL,
        )
    if is_projector != wants_projector:
        what, option = ("what lets a model see or hear", "--mmproj") if is_projector else ("a model", "--model")
        raise ApeError(f"package {path}: this is {what}: give it with {option}", reason=ApeReason.MODEL)
    if not facts.architecture and facts.split == 0:
        raise ApeError(f"package model {path}: it does not say which architecture it has", reason=ApeReason.MODEL)


def _check_part(facts: Gguf, name: str, path: Path) -> None:
    split = names.split_parts(name)
    if split and facts.splits and (facts.split + 1, facts.splits) != split[1:]:
        cause = f"it is called part {split[1]} of {split[2]}, but is part {facts.split + 1} of {facts.splits}"
        raise ApeError(f"package model {path}: {cause}", reason=ApeReason.MODEL)
    if facts.splits > 1 and split is None:
        raise ApeError(
            f"package model {path}: part {facts.split + 1} of {facts.splits}, but its name does not say so",
            detail=f"Parts are found by name: call it {names.part_name('NAME', facts.split + 1, facts.splits)}.",
            reason=ApeReason.MODEL,
        )
