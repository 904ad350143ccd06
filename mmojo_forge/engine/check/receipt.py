"""Receipts: signed statements of the outputs of builds, which other builders compare with their own.

A receipt is a file of DSSE envelopes, one per line (the bundle of in-toto attestation 1.0, `.intoto.jsonl`). Each
envelope holds an in-toto statement v1 with a SLSA provenance v1 predicate:

- The subjects are the outputs, identified by their tree ids.
- The resolved dependencies are the inputs.
- The by-products include what `forge check` varied, and the outcome.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmojo_forge.engine.check.checker import CheckReport, CheckVerdict, Resolutions
from mmojo_forge.engine.document import DocumentError, write_document
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import input_trees
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.sbom import provenance
from mmojo_forge.engine.sbom.provenance import PREDICATE, STATEMENT, TREE, BuildRun, Definition
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Aspect, Derivation, action_key
from mmojo_forge.model.digest import DerivationId, TreeId
from mmojo_forge.model.signature import PrivateKey, PublicKey, seal, unseal
from mmojo_forge.store.protocol import Store

_BUILD_TYPE = "urn:mmojo-forge:derivation:v1"
_CHECK = "check"


class ReceiptError(ForgeError):
    """A receipt cannot be read or written, or is about something else."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a receipt: the signer, the action key, and the tree of each output.

    `confirmed` means that the signer's own rebuild was identical.
    """

    signer: str
    name: str
    key: str
    outputs: Mapping[str, str]
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    """Another builder's claim about a node, beside the output trees of the local build (`ours`)."""

    claim: Claim
    ours: Mapping[str, TreeId]

    @property
    def agrees(self) -> bool:
        """Whether both builds have the same output trees."""
        return dict(self.claim.outputs) == dict(self.ours)


def write_receipt(path: Path, report: CheckReport, store: Store, key: PrivateKey) -> None:
    """Write the receipt of a check atomically; raises ReceiptError (`receipt-unwritable`)."""
    lines = [seal(_statement(verdict, report, store, key), key) for verdict in report.verdicts]
    try:
        write_document(path, "".join(f"{line}\n" for line in lines).encode())
    except DocumentError as error:
        raise ReceiptError(
            error.message.replace("write", "write receipt", 1),
            detail="Choose another path with --receipt.",
            reason="receipt-unwritable",
        ) from error


def read_receipt(path: Path, trusted: Sequence[PublicKey]) -> list[Claim]:
    """The claims of a receipt. A trusted key must have signed every statement.

    Raises ReceiptError (`receipt-unreadable`, `receipt-malformed`) and SignatureError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReceiptError(f"read receipt {path}: {error.strerror}", reason="receipt-unreadable") from error
    except UnicodeDecodeError as error:
        raise ReceiptError(f"read receipt {path}: it is not UTF-8 text", reason="receipt-malformed") from error
    claims = [_claim(path, *unseal(line, trusted)) for line in lines if line.strip()]
    if not claims:
        raise ReceiptError(f"read receipt {path}: it is empty", reason="receipt-malformed")
    return claims


def compare(
    path: Path, claims: Sequence[Claim], targets: Sequence[Derivation], graph: Graph, resolved: Resolutions
) -> list[Agreement]:
    """The agreements of the claims with the resolved nodes of the graph.

    Raises ReceiptError (`receipt-other-key`) if a target has no claim.
    """
    keys: dict[DerivationId, str] = {}
    for node in graph.derivations():
        # The inputs of a valid node may have been collected, with their resolutions.
        trees = input_trees(node, resolved)
        if node.id in resolved and trees is not None:
            keys[node.id] = action_key(node.preimage(trees))
    ours = {key: resolved[identifier] for identifier, key in keys.items()}
    claimed = {claim.key for claim in claims}
    missing = [node.name for node in targets if keys.get(node.id) not in claimed]
    if missing:
        raise ReceiptError(
            f"compare with receipt {path}: it has no statement about {', '.join(missing)} as built here",
            detail="Its action keys differ from those of this workspace. Either recipes, options or forge.lock differ, "
            "or the receipt is about another target.",
            reason="receipt-other-key",
        )
    return [Agreement(claim, ours[claim.key]) for claim in claims if claim.key in ours]


def _statement(verdict: CheckVerdict, report: CheckReport, store: Store, key: PrivateKey) -> bytes:
    node, resolved = verdict.node, report.resolved
    internal = {"actionKey": verdict.key, "label": node.label.to_json()}
    return provenance.statement(
        [_subject(node, name, tree, store) for name, tree in resolved[node.id].items()],
        Definition(_BUILD_TYPE, {"name": node.name}, internal, list(_dependencies(node, resolved))),
        BuildRun(
            key.public,
            {"finishedOn": datetime.now(UTC).isoformat(timespec="seconds")},
            [{"name": _CHECK, "annotations": _check(verdict)}],
        ),
    )


def _subject(node: Derivation, output: str, tree: TreeId, store: Store) -> dict[str, Any]:
    digests: dict[str, str] = {TREE: tree}
    if store.read_tree(tree).root_is_file:
        with store.checkout(tree, object_name(node.name, output)).open("rb") as file:
            digests["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": output, "digest": digests}


def _dependencies(node: Derivation, resolved: Resolutions) -> Iterator[dict[str, Any]]:
    trees = input_trees(node, resolved)
    assert trees is not None
    for name, tree in sorted(trees.items()):
        below = node.inputs[name].node
        reference = {} if isinstance(below, Derivation) else provenance.source_reference(below)
        yield {"digest": {TREE: tree}, **reference, "name": name, "annotations": {"node": below.name}}


def _check(verdict: CheckVerdict) -> dict[str, Any]:
    return {
        "identical": verdict.identical,
        "varied": [aspect.value for aspect in Aspect if aspect in verdict.varied],
        **({"check_exemptions": dict(verdict.node.check_exemptions)} if verdict.node.check_exemptions else {}),
        "rebuilt": {output.name: output.got for output in verdict.outputs},
        **({"failure": verdict.failure.reason} if verdict.failure else {}),
    }


def _claim(path: Path, statement: bytes, signer: PublicKey) -> Claim:
    try:
        document = json.loads(statement)
        build = document["predicate"]["buildDefinition"]
        if (document["_type"], document["predicateType"], build["buildType"]) != (STATEMENT, PREDICATE, _BUILD_TYPE):
            raise ValueError("another kind of statement")
        return Claim(
            signer.name,
            str(build["externalParameters"]["name"]),
            str(build["internalParameters"]["actionKey"]),
            {str(subject["name"]): str(subject["digest"][TREE]) for subject in document["subject"]},
            confirmed=any(
                byproduct["name"] == _CHECK and byproduct["annotations"]["identical"] is True
                for byproduct in document["predicate"]["runDetails"].get("byproducts", ())
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ReceiptError(
            f"read receipt {path}: it is not a receipt of forge", detail=repr(error), reason="receipt-malformed"
        ) from error
