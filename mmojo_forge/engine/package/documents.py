"""The documents of a package: a bill of materials and licence texts inside; a bill and signed provenance beside it.

    target ──▶ bill ──▶ sbom.cdx.json, NOTICES.txt     in the file: no hash of the file itself, nothing that changes
                  └───▶ OUT.cdx.json, OUT.intoto.json  beside it: the hash of the file, all that was added to it

Documents need no network, and the same package gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmojo_forge.ape.files import content
from mmojo_forge.ape.packaging import names
from mmojo_forge.ape.packaging.contents import (
    InMemory,
    InProgram,
    OnDisk,
    Origin,
    PackageContents,
    PackageItem,
    PackageLayout,
)
from mmojo_forge.ape.packaging.outputs import FOLDERS, Format
from mmojo_forge.ape.packaging.package import PackagePlan
from mmojo_forge.engine.document import write_document
from mmojo_forge.engine.sbom import cyclonedx, notices
from mmojo_forge.engine.sbom.bom import Bill
from mmojo_forge.engine.sbom.documents import PackedFile, bill_of_package, bill_of_program, describe_package, sha256_of
from mmojo_forge.engine.sbom.provenance import Json
from mmojo_forge.engine.trust import signing
from mmojo_forge.model.signature import PrivateKey
from mmojo_forge.store.protocol import Store

SBOM = "sbom.cdx.json"
NOTICES = "NOTICES.txt"
SBOM_SUFFIX = ".cdx.json"
PROVENANCE_SUFFIX = ".intoto.json"

_OURS = frozenset({SBOM, NOTICES})
_UNKNOWN = "0" * 64
# A bill of thousands of components has a few megabytes; anything larger than this is not read.
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class DocumentOptions:
    """Which documents the user wants: inside the package (`sbom`, `notices`), beside it (`beside`), and signatures."""

    sbom: bool = True
    notices: bool = True
    beside: bool = False
    sign: bool = False


@dataclass(slots=True)
class Hashes:
    """The hashes of a package's files. Each file is read once; with `skip`, none is read and all hashes are zeros."""

    skip: bool = False
    _known: dict[Origin, str] = field(default_factory=dict, init=False)

    def of(self, items: Iterable[PackageItem]) -> list[PackedFile]:
        """The items that were added to the program, except for the private key, which no document mentions."""
        added = (item for item in items if not isinstance(item.origin, InProgram) and item.name != names.KEY)
        return [PackedFile(item.name, self._hash(item.origin), item.size) for item in added]

    def _hash(self, origin: Origin) -> str:
        if origin not in self._known:
            self._known[origin] = _UNKNOWN if self.skip else _sha256(origin)
        return self._known[origin]


def _sha256(origin: Origin) -> str:
    if isinstance(origin, InMemory):
        return hashlib.sha256(origin.data).hexdigest()
    assert isinstance(origin, OnDisk)
    sha256 = hashlib.sha256()
    # No check for changes here: packing verifies that the file is still the same.
    with content.open_input(origin.path, "package") as stream:
        for chunk in content.read_chunks(stream, origin.size):
            sha256.update(chunk)
    return sha256.hexdigest()


def bill_of_file(path: Path) -> Bill:
    """The bill of a program file that is not a target."""
    return bill_of_program(PackedFile(path.name, sha256_of(path), path.stat().st_size))


def with_sbom(contents: PackageContents, bill: Bill, hashes: Hashes) -> PackageContents:
    """The contents plus the bill of the target and the added files, unless the user gives a file of that name."""
    if _is_given(contents, SBOM):
        return contents
    name = contents.head.alias or bill.root.name.partition(".")[0]
    packaged = bill_of_package(bill, PackedFile(name), _lasting(contents, hashes))
    return _with_file(contents, SBOM, cyclonedx.encode(packaged))


def with_sbom_renewed(contents: PackageContents, hashes: Hashes) -> PackageContents:
    """The contents with the program's own bill updated for added and removed files; raises ApeError."""
    old = next((item for item in contents.items if item.name == SBOM), None)
    if old is None or not isinstance(old.origin, InProgram):
        return contents
    kept = {item.name for item in contents.items if isinstance(item.origin, InProgram)}
    added = [file.item() for file in _lasting(contents, hashes)]
    renewed = cyclonedx.replace_files(_read(old.origin), contents.head.alias, kept, added)
    if renewed is None:
        return _with_note(contents, f"the program's {SBOM} was not made by forge, so it stays unchanged")
    return _with_file(contents, SBOM, renewed)


def without_sbom(contents: PackageContents) -> PackageContents:
    """The contents without the program's own bill, which would describe the old package."""
    stays = (item for item in contents.items if item.name != SBOM or not isinstance(item.origin, InProgram))
    return replace(contents, items=tuple(stays))


def with_notices(contents: PackageContents, bill: Bill, store: Store) -> PackageContents:
    """The contents plus the target's licence texts, or a note if the store lacks them; raises NoticeError."""
    if _is_given(contents, NOTICES):
        return contents
    collected = notices.collect_here(bill, store)
    if collected is None:
        return _without_texts(contents, bill)
    return _with_file(contents, NOTICES, notices.render(bill, collected).encode())


def with_notices_added(contents: PackageContents, bill: Bill, store: Store) -> PackageContents:
    """The contents with a target's licence texts appended to those that the program already has, without duplicates.

    Raises NoticeError, ApeError.
    """
    old = next((item for item in contents.items if item.name == NOTICES), None)
    if old is not None and isinstance(old.origin, OnDisk):
        return contents
    collected = notices.collect_here(bill, store)
    if collected is None:
        return _without_texts(contents, bill)
    before = b"" if old is None else _bytes_of(old.origin)
    text = notices.render(bill, collected).encode()
    return contents if text in before else _with_file(contents, NOTICES, before + (b"\n" if before else b"") + text)


def with_folders_told(contents: PackageContents, folders: Iterable[str]) -> PackageContents:
    """The contents with a note for each module that is given as a folder, because its licence texts are unknown.

    Adds none if the user gives licence texts.
    """
    if _is_given(contents, NOTICES):
        return contents
    for folder in folders:
        hint = f"Name a target instead, or add the texts yourself: --file {NOTICES}"
        contents = _with_note(contents, f"module {folder}: a folder has no licence texts and no bill. {hint}")
    return contents


def _without_texts(contents: PackageContents, bill: Bill) -> PackageContents:
    hint = f"Fetch them with `forge sbom {bill.root.name} --notices -o {NOTICES}`, then package again"
    why = "their sources are no longer in the store"
    return _with_note(contents, f"the package lacks the licence texts of {bill.root.name}: {why}. {hint}")


def _bytes_of(origin: Origin) -> bytes:
    if isinstance(origin, InMemory):
        return origin.data
    return _read(origin) if isinstance(origin, InProgram) else b""


def _is_given(contents: PackageContents, name: str) -> bool:
    return any(item.name == name and not isinstance(item.origin, InProgram) for item in contents.items)


def _lasting(contents: PackageContents, hashes: Hashes) -> list[PackedFile]:
    """The added files that cannot change later. Arguments can (`forge ape args`), and are not among the items."""
    return [file for file in hashes.of(contents.items) if file.name not in _OURS]


def _with_file(contents: PackageContents, name: str, data: bytes) -> PackageContents:
    items = [item for item in contents.items if item.name != name]
    return replace(contents, items=(*items, PackageItem(name, InMemory(data))))


def _with_note(contents: PackageContents, note: str) -> PackageContents:
    return replace(contents, notes=(*contents.notes, note))


def _read(origin: InProgram) -> bytes:
    if origin.entry.size > _LARGEST:
        return b""
    with content.open_input(origin.path, "program") as stream:
        return b"".join(content.read_entry(stream, origin.entry, str(origin.path)))


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """A document beside a product: its kind and its path."""

    kind: str
    product: Path
    path: Path


@dataclass(frozen=True, slots=True)
class SidecarWriter:
    """Writes the documents beside a package. `parameters` are the user's options, for the provenance."""

    bill: Bill | None
    parameters: Json
    key: PrivateKey
    hashes: Hashes
    sign: bool

    def leave(self, plans: Iterable[PackagePlan]) -> Iterator[WrittenDocument]:
        """Write the documents beside every product that is one file; raises DocumentError, SigningError."""
        for plan in plans:
            path = plan.output.path
            if plan.output.format in FOLDERS:
                continue
            if self.bill is not None:
                yield from self._describe(plan, self.bill)
            if self.sign:
                yield WrittenDocument("signature", path, signing.sign_file(path, self.key))

    def _describe(self, plan: PackagePlan, bill: Bill) -> Iterator[WrittenDocument]:
        path = plan.output.path
        package = PackedFile(path.name, sha256_of(path), path.stat().st_size)
        added = self.hashes.of(_in_file(plan.output.format, plan.layout))
        made = describe_package(bill, package, added, self.parameters, self.key)
        documents: Mapping[str, bytes] = {SBOM_SUFFIX: made.sbom, PROVENANCE_SUFFIX: made.provenance.encode() + b"\n"}
        for kind, (suffix, data) in zip(("sbom", "provenance"), documents.items(), strict=True):
            to = path.with_name(path.name + suffix)
            write_document(to, data)
            yield WrittenDocument(kind, path, to)


def _in_file(form: Format, layout: PackageLayout) -> tuple[PackageItem, ...]:
    """The items in the product's file. APE and EXE keep large models beside it, because Windows limits their size."""
    return layout.inside if form in {Format.APE, Format.EXE} else (*layout.inside, *layout.beside)
