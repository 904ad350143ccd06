"""What comes out of packaging: a file, its twin for Windows, a folder, a zip of it, images; and where each goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.oci import blobs
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.read.program import Program, ProgramKind

# From this size on Windows says that an .exe is no valid application.
WINDOWS_LIMIT: Final = 1 << 32
_SUFFIXES: Final = (".ape", ".exe", ".zip", ".oci", ".tar")


class Format(StrEnum):
    """The forms of a package."""

    APE = "ape"
    EXE = "exe"
    FOLDER = "folder"
    ZIP = "zip"
    OCI = "oci"
    OCI_TAR = "oci-tar"


IMAGES: Final = frozenset({Format.OCI, Format.OCI_TAR})
FOLDERS: Final = frozenset({Format.FOLDER, Format.OCI})
"""What is a folder, and not one file."""


@dataclass(frozen=True, slots=True)
class PackageOutput:
    """One form, and where it goes. `name` is what the program is called inside of a folder."""

    format: Format
    path: Path
    name: str


def choose_outputs(out: Path, formats: Sequence[Format], name: str, program: Program) -> list[PackageOutput]:
    """Where each of the formats goes; raises ApeError (`ape-output`, `ape-name`) where it cannot be made or put.

    One format goes to `out`, but the twin for Windows ends in .exe; of several, the folder is called like `out` without
    its ending, all others with one of their own.
    """
    stem = out.with_name(out.name.removesuffix(out.suffix)) if out.suffix in _SUFFIXES else out
    called = name or stem.name
    names.check_program_name(called)
    _check_formats(formats, program)
    places = {
        Format.APE: out,
        Format.EXE: stem.with_name(stem.name + ".exe"),
        Format.FOLDER: stem,
        Format.ZIP: stem.with_name(stem.name + ".zip"),
        Format.OCI: stem.with_name(stem.name + ".oci"),
        Format.OCI_TAR: stem.with_name(stem.name + ".oci.tar"),
    }
    if len(formats) == 1 and formats[0] is not Format.EXE:
        places[formats[0]] = out
    chosen = [PackageOutput(form, places[form], called) for form in Format if form in formats]
    for output in chosen:
        if sum(output.path == other.path for other in chosen) > 1:
            raise ApeError(
                f"package {out}: two formats would have this name",
                detail="Let it end in .ape: the folder is called like it, without the ending.",
                reason=ApeReason.OUTPUT,
            )
        _check_place(output)
    return chosen


def _check_formats(formats: Sequence[Format], program: Program) -> None:
    if program.kind is ProgramKind.MACHO and Format.APE in formats:
        raise ApeError(
            f"package {program.path}: macOS starts no program that has something behind its signed end",
            detail="Package it as a folder: --format folder, or --format zip.",
            reason=ApeReason.OUTPUT,
        )
    if Format.EXE in formats and not program.starts_on_windows:
        raise ApeError(
            f"package {program.path}: it has nothing that Windows starts",
            detail="--format exe needs an APE with a Windows slice, or a program for Windows.",
            reason=ApeReason.OUTPUT,
        )
    if IMAGES.intersection(formats) and not _starts_on_linux(program):
        raise ApeError(
            f"package {program.path}: an image is for Linux, and there is no slice for Linux in it",
            detail="--format oci and oci-tar need an APE with slices for linux-x86_64 or linux-aarch64.",
            reason=ApeReason.OUTPUT,
        )


def _starts_on_linux(program: Program) -> bool:
    return program.facts is not None and any(record.system.startswith("linux-") for record in program.facts.slices)


def _check_place(output: PackageOutput) -> None:
    path = output.path
    if not path.parent.is_dir():
        raise ApeError(f"package {path}: there is no folder {path.parent}", reason=ApeReason.OUTPUT)
    if output.format in IMAGES:
        blobs.check_place(path, archive=output.format is Format.OCI_TAR)
        return
    if output.format is not Format.FOLDER:
        if path.is_dir():
            raise ApeError(f"package {path}: it is a folder", reason=ApeReason.OUTPUT)
        return
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ApeError(f"package {path}: it exists, and is no folder", reason=ApeReason.OUTPUT)
    if path.is_dir() and any(path.iterdir()) and not (path / names.SUPPORT).is_dir():
        raise ApeError(
            f"package {path}: a folder that no package is in",
            detail="It would be replaced with all that is in it. Name a folder that is new, empty or a package.",
            reason=ApeReason.OUTPUT,
        )
