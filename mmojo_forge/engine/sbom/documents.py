"""Bills of materials of targets, and of the files that `forge package` makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.sbom import cyclonedx, spdx
from mmojo_forge.engine.sbom.bom import BLAKE3, FILE_REF, SHA256, SIZE_PROPERTY, Bill, BomItem, BomKind, make_bill
from mmojo_forge.engine.sbom.provenance import Json, package_statement
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.signature import PrivateKey
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.store.protocol import Store

FORMATS: Mapping[str, Callable[..., bytes]] = MappingProxyType({"cyclonedx": cyclonedx.encode, "spdx": spdx.encode})
"""What a bill can be written as."""

_MODEL = ".gguf"


class SbomError(EngineError):
    """A bill of materials that has gaps where none are allowed."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file that was put into another, or one that files were put into. A model says its licence, if anybody knows;
    `sha256` is empty while the file is not written yet."""

    name: str
    sha256: str = ""
    size: int = 0
    licence: str = ""

    def item(self) -> BomItem:
        """The file in a bill."""
        return BomItem(
            f"{FILE_REF}{self.name}#{self.sha256}",
            self.name,
            BomKind.MODEL if self.name.endswith(_MODEL) else BomKind.FILE,
            licence=self.licence,
            hashes={SHA256: self.sha256} if self.sha256 else {},
            properties={SIZE_PROPERTY: str(self.size)} if self.sha256 else {},
        )


@dataclass(frozen=True, slots=True)
class PackageDocuments:
    """What goes beside a packaged file: its bill of materials, and its signed provenance in one line."""

    sbom: bytes
    provenance: str


def bill_of(workspace: Workspace, request: Request, store: Store) -> Bill:
    """The bill of the request's one target, with the hashes of its file if it is built; raises RecipeError, LockError,
    ContentsError."""
    evaluation = evaluate(workspace, request)
    [(target, instance)] = evaluation.instances.items()
    plan = evaluation.plan(store)
    tree = plan.resolved.get(instance.node.id, {}).get(instance.output)
    if tree not in plan.valid:
        tree = None
    hashes = _hashes(instance, tree, store) if tree else {}
    return make_bill(
        instance.node, instance.output, target, evaluation.lock, workspace=workspace.root, tree=tree, hashes=hashes
    )


def bill_of_program(program: PackedFile) -> Bill:
    """The bill of a program that is no target, of which nobody knows more than its hash."""
    root = replace(program.item(), kind=BomKind.APPLICATION)
    return Bill(root, (), (), {root.ref: ()}, {}, (), undeclared=(program.name,))


def check_complete(bill: Bill) -> None:
    """Raise SbomError (`contents-undeclared`, `licence-undeclared`, `not-redistributable`) unless everything in the
    result is declared and redistributable."""
    if bill.undeclared:
        raise SbomError(
            f"list what is in {bill.root.name}: {', '.join(bill.undeclared)} does not say what of its inputs is in it",
            detail="Its recipe says so with Spec.containing(…); docs/sbom.md has examples.",
            reason="contents-undeclared",
        )
    if bill.unlicensed:
        names = ", ".join(f"{item.name} ({item.licence or 'no licence'})" for item in bill.unlicensed)
        raise SbomError(
            f"list what is in {bill.root.name}: nobody declares a valid licence of {names}",
            detail="The recipe that unpacks the source says so with Spec.made_of(Component(…, licence=…)), in SPDX's "
            "words; docs/sbom.md has examples.",
            reason="licence-undeclared",
        )
    check_redistributable(bill)


def check_redistributable(bill: Bill) -> None:
    """Raise SbomError (`not-redistributable`) if something is in the result that its licence keeps from others."""
    if bill.restricted:
        names = ", ".join(f"{item.name} ({item.licence})" for item in bill.restricted)
        raise SbomError(
            f"list what is in {bill.root.name}: {names} not redistributable",
            detail="What is linked to it or packed with it has to leave it out: its users install it themselves.",
            reason="not-redistributable",
        )


def bill_of_package(target: Bill, package: PackedFile, added: Iterable[PackedFile]) -> Bill:
    """The bill of a file that holds the target and the files added to it. Without the hash of the file, it can be put
    into it."""
    files = [file.item() for file in sorted(added, key=lambda file: file.name)]
    root = replace(package.item(), kind=BomKind.APPLICATION, version=target.root.version, licence=target.root.licence)
    return target.packed(root, files)


def describe_package(
    target: Bill,
    package: PackedFile,
    added: Sequence[PackedFile],
    parameters: Json,
    key: PrivateKey,
    *,
    epoch: int | None = None,
) -> PackageDocuments:
    """The documents of a file that was made of the target and the files added to it, as its user asked for by
    `parameters`. The same files, parameters and key give the same bytes."""
    bill = bill_of_package(target, package, added)
    inputs = [target.root, *(file.item() for file in sorted(added, key=lambda file: file.name))]
    return PackageDocuments(cyclonedx.encode(bill, epoch=epoch), package_statement(bill, inputs, parameters, key))


def _hashes(instance: Instance, tree: TreeId, store: Store) -> dict[str, str]:
    """The hashes of an output that is one file; a folder has none."""
    root = store.read_tree(tree).entries[0]
    if root.digest is None:
        return {}
    path = store.checkout(tree, object_name(instance.node.name, instance.output))
    return {SHA256: sha256_of(path), BLAKE3: root.digest}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
