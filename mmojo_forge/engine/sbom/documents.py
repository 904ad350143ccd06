"""Bills of materials of targets, and of the files that `forge package` makes from them."""

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
"""The encoders of bills, by format name."""

_MODEL = ".gguf"


class SbomError(EngineError):
    """A bill of materials is incomplete, or contains something that is not redistributable."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A packaged file, or a file that was packed into one. `sha256` is empty while the file is not written yet."""

    name: str
    sha256: str = ""
    size: int = 0
    licence: str = ""

    def item(self) -> BomItem:
        """The item of this file in a bill."""
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
    """The documents beside a packaged file: its bill of materials, and its signed provenance in one line."""

    sbom: bytes
    provenance: str


def bill_of(workspace: Workspace, request: Request, store: Store) -> Bill:
    """The bill of the request's one target, with the hashes of its file if it is built.

    Raises RecipeError, LockError, ContentsError.
    """
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
    """The bill of a program that is not a target. Only its hash is known, so its contents are undeclared."""
    root = replace(program.item(), kind=BomKind.APPLICATION)
    return Bill(root, (), (), {root.ref: ()}, {}, (), undeclared=(program.name,))


def check_complete(bill: Bill) -> None:
    """Raise SbomError (`contents-undeclared`, `licence-undeclared`, `not-redistributable`) unless everything in the
    result is declared and redistributable."""
    if bill.undeclared:
        raise SbomError(
            f"list the contents of {bill.root.name}: no contents declared for {', '.join(bill.undeclared)}",
            detail="Declare them in the recipe with Spec.containing(…); docs/sbom.md has examples.",
            reason="contents-undeclared",
        )
    if bill.unlicensed:
        names = ", ".join(f"{item.name} ({item.licence or 'no licence'})" for item in bill.unlicensed)
        raise SbomError(
            f"list the contents of {bill.root.name}: no valid licence declared for {names}",
            detail="Declare it in the recipe that unpacks the source, as an SPDX expression: "
            "Spec.made_of(Component(…, licence=…)). docs/sbom.md has examples.",
            reason="licence-undeclared",
        )
    check_redistributable(bill)


def check_redistributable(bill: Bill) -> None:
    """Raise SbomError (`not-redistributable`) if the result contains something that is not redistributable."""
    if bill.restricted:
        names = ", ".join(f"{item.name} ({item.licence})" for item in bill.restricted)
        raise SbomError(
            f"list the contents of {bill.root.name}: not redistributable: {names}",
            detail="Do not link or pack it. Users of the result must install it themselves.",
            reason="not-redistributable",
        )


def bill_of_package(target: Bill, package: PackedFile, added: Iterable[PackedFile]) -> Bill:
    """The bill of a file that contains the target and the added files.

    If `package` has no hash, the bill can be packed into the file itself.
    """
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
    """The documents of a file that contains the target and the added files. `parameters` are the user's options.

    The same files, parameters and key give the same bytes.
    """
    bill = bill_of_package(target, package, added)
    inputs = [target.root, *(file.item() for file in sorted(added, key=lambda file: file.name))]
    return PackageDocuments(cyclonedx.encode(bill, epoch=epoch), package_statement(bill, inputs, parameters, key))


def _hashes(instance: Instance, tree: TreeId, store: Store) -> dict[str, str]:
    """The hashes of an output that is one file; empty for a folder."""
    root = store.read_tree(tree).entries[0]
    if root.digest is None:
        return {}
    path = store.checkout(tree, object_name(instance.node.name, instance.output))
    return {SHA256: sha256_of(path), BLAKE3: root.digest}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
