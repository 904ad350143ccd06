"""What is in a package: its program, and files by name that come from a disk, from the program's zip, or from us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmojo_forge.ape.arguments import head
from mmojo_forge.ape.format.layout import BLOCK
from mmojo_forge.ape.format.zip_directory import STORED, DirectoryEntry, ZipRecord
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.read.gguf import Gguf
from mmojo_forge.ape.read.program import Program


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file as it was when it was looked at; `stamp` changes when it does."""

    path: Path
    size: int
    stamp: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InProgram:
    """An entry of the program's zip."""

    path: Path
    entry: DirectoryEntry


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes that packaging made or read whole."""

    data: bytes


Origin = OnDisk | InProgram | InMemory


@dataclass(frozen=True, slots=True)
class PackageItem:
    """One file of the package. `beside` says that it is no part of the program as such, so that it lies in the
    support folder where there is one."""

    name: str
    origin: Origin
    executable: bool = False
    beside: bool = True

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        match self.origin:
            case OnDisk(size=size):
                return size
            case InProgram(entry=entry):
                return entry.size
            case InMemory(data=data):
                return len(data)

    @property
    def align(self) -> int:
        """What its data lies at a multiple of, so that it can be mapped."""
        return BLOCK if names.is_mapped(self.name) else 1

    def entry(self, name: str = "") -> ZipRecord:
        """Its zip entry, but for where it lies; the CRC is -1 where nobody knows it yet."""
        mode = 0o755 if self.executable else 0o644
        if isinstance(self.origin, InProgram):
            old = self.origin.entry
            return ZipRecord(name or self.name, old.method, old.crc, old.packed, old.size, mode=mode)
        return ZipRecord(name or self.name, STORED, -1, self.size, self.size, mode=mode)


@dataclass(frozen=True, slots=True)
class Head:
    """The options that packaging writes for the server: names of files in the package, and plain values; empty if none.

    A path instead of a name stays what it is: what lay beside the program before still does.
    """

    model: str = ""
    mmproj: str = ""
    page: str = ""
    cert: bool = False
    alias: str = ""

    def options(self, place: Callable[[str], str]) -> list[tuple[str, str]]:
        """The options; `place` turns a name into the path that the server finds it by."""
        rows = (
            ("--model", self.model and place(self.model)),
            ("--mmproj", self.mmproj and place(self.mmproj)),
            ("--ui-page", self.page),
            ("--ssl-cert-file", place(names.CERT) if self.cert else ""),
            ("--ssl-key-file", place(names.KEY) if self.cert else ""),
            ("--alias", self.alias),
        )
        return [(option, value) for option, value in rows if value]


ZIP_PATH = "/zip/"
SUPPORT_PATH = "/support/"


@dataclass(frozen=True, slots=True)
class PackageContents:
    """All that was gathered. `given` and `yaml` are the user's arguments in either form, None where there are none;
    `models` are those that were looked at, by name; `notes` is what the user should know."""

    program: Program
    items: tuple[PackageItem, ...]
    head: Head
    given: bytes | None
    yaml: bytes | None
    models: Mapping[str, Gguf]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackageLayout:
    """Which files go into the program, and which into the support folder beside it. Sorted by name."""

    program: Program
    inside: tuple[PackageItem, ...]
    beside: tuple[PackageItem, ...]

    @property
    def unchanged(self) -> bool:
        """Whether the program stays byte for byte what it is."""
        return len(self.inside) == len(self.program.assets) and all(
            isinstance(item.origin, InProgram) and (item.origin.entry.mappable or not names.is_mapped(item.name))
            for item in self.inside
        )


def lay_out_inside(contents: PackageContents) -> PackageLayout:
    """All in one file."""
    return _lay_out(contents, lambda _: False, args_beside=False)


def lay_out_beside(contents: PackageContents) -> PackageLayout:
    """The program as it is, and all that was added in the support folder."""
    return _lay_out(contents, lambda item: item.beside, args_beside=True)


def lay_out_all_beside(contents: PackageContents) -> PackageLayout:
    """The program alone, and everything else in the support folder: for one that must have nothing at its end."""
    return _lay_out(contents, lambda _: True, args_beside=True)


def lay_out_models_beside(contents: PackageContents) -> PackageLayout:
    """All in one file but the models, and what would have to be unpacked: for a system that starts no large program, or
    where nothing can be written."""
    return _lay_out(contents, lambda item: names.is_model(item.name) or names.is_module(item.name), args_beside=False)


def lay_out_for_image(contents: PackageContents) -> PackageLayout:
    """All in one file but the models, and no GPU modules: an image has no glibc, so that nothing could load them."""
    kept = tuple(item for item in contents.items if not names.is_module(item.name))
    return lay_out_models_beside(replace(contents, items=kept))


def _lay_out(
    contents: PackageContents, is_beside: Callable[[PackageItem], bool], *, args_beside: bool
) -> PackageLayout:
    outside = {item.name for item in contents.items if is_beside(item)}

    def place(name: str) -> str:
        return name if name.startswith("/") else (SUPPORT_PATH if name in outside else ZIP_PATH) + name

    arguments = _arguments(contents, place)
    inside = [item for item in contents.items if item.name not in outside] + ([] if args_beside else arguments)
    beside = [item for item in contents.items if item.name in outside] + (arguments if args_beside else [])
    return PackageLayout(contents.program, _sorted(inside), _sorted(beside))


def _arguments(contents: PackageContents, place: Callable[[str], str]) -> list[PackageItem]:
    plain = head.encode_head(contents.head.options(place), contents.given or b"")
    found = [(head.NAME, plain)] if plain else []
    if contents.yaml is not None:
        found.append((head.YAML_NAME, contents.yaml))
    return [PackageItem(name, InMemory(data)) for name, data in found]


def _sorted(items: list[PackageItem]) -> tuple[PackageItem, ...]:
    return tuple(sorted(items, key=lambda item: item.name.encode()))
