"""SLSA provenance (slsa.dev/provenance/v1) in in-toto statements v1: what was built from what, and by whom.

Two kinds of build have statements: one node of the graph (`engine/check/receipt.py`), and a file that `forge package`
made from a target and local files. Both identify sources by their locator and all their digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mmojo_forge import __version__
from mmojo_forge.engine.sbom.bom import BLAKE3, SHA256, TREE_PROPERTY, Bill, BomItem
from mmojo_forge.engine.sbom.contents import AnySource
from mmojo_forge.engine.sbom.cyclonedx import iri_of
from mmojo_forge.model.derivation import LocalSource, Source
from mmojo_forge.model.signature import PrivateKey, PublicKey, seal

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
PACKAGE_TYPE = "urn:mmojo-forge:package:v1"
TREE = "forgeTreeV1"
"""The name of the digest of trees: BLAKE3 of the canonical manifest."""

_ALGORITHMS = MappingProxyType({SHA256: "sha256", BLAKE3: "blake3"})

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Definition:
    """SLSA's buildDefinition: the build type, the user's parameters, forge's own parameters, and the inputs."""

    build_type: str
    external: Json
    internal: Json
    dependencies: Sequence[Json]


@dataclass(frozen=True, slots=True)
class BuildRun:
    """SLSA's runDetails: the builder's key, metadata such as the time, and by-products."""

    builder: PublicKey
    metadata: Json = field(default_factory=dict)
    byproducts: Sequence[Json] = ()


def statement(subjects: Sequence[Json], definition: Definition, run: BuildRun) -> bytes:
    """The statement as JSON bytes, ready to sign."""
    details = {
        "builder": {"id": f"urn:mmojo-forge:builder:{run.builder}", "version": {"mmojo-forge": __version__}},
        **({"metadata": run.metadata} if run.metadata else {}),
        **({"byproducts": list(run.byproducts)} if run.byproducts else {}),
    }
    document = {
        "_type": STATEMENT,
        "subject": list(subjects),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": definition.build_type,
                "externalParameters": definition.external,
                "internalParameters": definition.internal,
                "resolvedDependencies": list(definition.dependencies),
            },
            "runDetails": details,
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def source_reference(source: AnySource) -> dict[str, Any]:
    """The reference to a source: its locator and all its digests; for workspace files, their tree."""
    if isinstance(source, LocalSource):
        return {"name": source.name, "digest": {TREE: source.tree}}
    tree = {TREE: source.tree} if isinstance(source, Source) else {}
    return {"name": source.name, "uri": iri_of(source.locator), "digest": {**tree, **source.digests}}


def package_statement(
    bill: Bill,
    packed: Iterable[BomItem],
    parameters: Json,
    key: PrivateKey,
) -> str:
    """The signed provenance of a packaged file, in one line.

    `bill` is the file's bill; its root has the hashes. `packed` are the target and the added files. `parameters` are
    the user's options. The line has no time, so the same files packaged with the same key give the same line.
    """
    dependencies = [_reference(item) for item in packed]
    dependencies += sorted((source_reference(source) for source in bill.sources), key=_order)
    definition = Definition(PACKAGE_TYPE, parameters, {}, dependencies)
    return seal(statement([_reference(bill.root)], definition, BuildRun(key.public)), key)


def _order(reference: Json) -> tuple[str, str]:
    digests = reference["digest"]
    return str(reference["name"]), str(digests.get(TREE) or digests["sha256"])


def _reference(item: BomItem) -> dict[str, Any]:
    digests = {_ALGORITHMS[algorithm]: digest for algorithm, digest in item.hashes.items()}
    tree = item.properties.get(TREE_PROPERTY)
    return {"name": item.name, "digest": {**digests, **({TREE: tree} if tree else {})}}
