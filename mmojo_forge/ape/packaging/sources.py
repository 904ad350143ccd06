"""Files and folders that are given to be packaged: looked at once, with what may be wrong with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.files import content
from mmojo_forge.ape.files.content import MAX_TEXT
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import InMemory, OnDisk, PackageItem


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def look_at(name: str, path: Path, what: str) -> PackageItem:
    """The file at `path` as an item; raises ApeError (`ape-input`) where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise ApeError(f"package {what} {path}: {error.strerror}", reason=ApeReason.INPUT) from error
    if not stat.S_ISREG(status.st_mode):
        raise ApeError(f"package {what} {path}: not a file", reason=ApeReason.INPUT)
    origin = OnDisk(path, status.st_size, stamp_of(status))
    return PackageItem(name, origin, executable=bool(status.st_mode & stat.S_IXUSR))


def read_text(path: Path, what: str) -> bytes:
    """The bytes of a file that must be small; raises ApeError (`ape-input`)."""
    with content.open_input(path, f"package {what}") as stream:
        data = stream.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ApeError(f"package {what} {path}: larger than 16 MiB, so it is something else", reason=ApeReason.INPUT)
    return data


def look_at_certificate(cert: Path, key: Path) -> list[PackageItem]:
    """Certificate and key as items; raises ApeError (`ape-certificate`) for what no server could use.

    Whether they belong together is for those to check who can read them.
    """
    found = []
    for name, path, wanted in ((names.CERT, cert, b"CERTIFICATE-----"), (names.KEY, key, b"PRIVATE KEY-----")):
        data = read_text(path, "certificate" if name == names.CERT else "key")
        if b"-----BEGIN " not in data or wanted not in data:
            label = wanted.decode().removesuffix("-----").lower()
            raise _refuse_certificate(path, f"there is no {label} in PEM in it")
        if b"ENCRYPTED" in data:
            raise _refuse_certificate(path, "the key is encrypted, and nobody is there to be asked for the password")
        found.append(PackageItem(name, InMemory(data)))
    return found


def _refuse_certificate(path: Path, cause: str) -> ApeError:
    return ApeError(f"package {path}: {cause}", reason=ApeReason.CERTIFICATE)


def walk_folder(folder: Path, prefix: str, what: str) -> list[PackageItem]:
    """Every file below `folder` as an item below `prefix`, sorted by name.

    A link to a file in the same folder is that file; links out of it, to folders and to nothing are refused
    (`ape-folder`), for what they lead to was not meant to be handed on.
    """
    root = folder.resolve()
    items = [
        look_at(f"{prefix}/{path.relative_to(folder).as_posix()}", path, what) for path in _files(folder, root, what)
    ]
    for item in items:
        names.check_name(item.name, what)
    return sorted(items, key=lambda item: item.name.encode())


def _files(folder: Path, root: Path, what: str) -> Iterator[Path]:
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ApeError(f"package {what} {folder}: {error.strerror}", reason=ApeReason.INPUT) from error
    for entry in found:
        path = Path(entry.path)
        if entry.is_symlink():
            _check_link(path, root, what)
            yield path
        elif entry.is_dir(follow_symlinks=False):
            yield from _files(path, root, what)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            raise ApeError(f"package {what} {path}: neither file, folder nor link", reason=ApeReason.FOLDER)


def _check_link(path: Path, root: Path, what: str) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ApeError(f"package {what} {path}: a link to nothing", reason=ApeReason.FOLDER) from error
    if not target.is_relative_to(root):
        raise ApeError(
            f"package {what} {path}: a link that leaves the folder, to {target}",
            detail="What lies there would be handed on. Put a copy in the link's place.",
            reason=ApeReason.FOLDER,
        )
    if target.is_dir():
        raise ApeError(
            f"package {what} {path}: a link to a folder", detail="Put a copy in its place.", reason=ApeReason.FOLDER
        )
