"""SLSA provenance (slsa.dev/provenance/v1) in in-toto statements v1: what was made of what, by whom.

Two kinds of build are told of: one node of the graph (`engine/receipt.py`), and a file that `forge package` made of
a target and local files. In both, sources are named by where they are looked for and by all their digests.
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
"""The digest by which trees are named: BLAKE3 of the canonical manifest."""

_ALGORITHMS = MappingProxyType({SHA256: "sha256", BLAKE3: "blake3"})

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Definition:
    """What was built: the kind of build, what its user asked for, what forge added, and what went in."""

    build_type: str
    external: Json
    internal: Json
    dependencies: Sequence[Json]


@dataclass(frozen=True, slots=True)
class BuildRun:
    """The run that built it: who, and what is known of it besides."""

    builder: PublicKey
    metadata: Json = field(default_factory=dict)
    byproducts: Sequence[Json] = ()


def statement(subjects: Sequence[Json], definition: Definition, run: BuildRun) -> bytes:
    """The statement in bytes, ready to be signed."""
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
    """A source of the graph: where it is looked for and all its digests; of files of the workspace, their tree."""
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
    """The signed provenance of a packaged file, in one line: `bill` is that of the file, whose root has its hashes;
    `packed` is what was put together (the target, the files added), `parameters` what the user asked for.

    It tells no time, so that the same files packaged by the same key give the same line.
    """
    dependencies = [_reference(item) for item in packed]
    dependencies += sorted((source_reference(one) for one in bill.sources), key=_order)
    definition = Definition(PACKAGE_TYPE, parameters, {}, dependencies)
    return seal(statement([_reference(bill.root)], definition, BuildRun(key.public)), key)


def _order(reference: Json) -> tuple[str, str]:
    digests = reference["digest"]
    return str(reference["name"]), str(digests.get(TREE) or digests["sha256"])


def _reference(item: BomItem) -> dict[str, Any]:
    digests = {_ALGORITHMS[algorithm]: digest for algorithm, digest in item.hashes.items()}
    tree = item.properties.get(TREE_PROPERTY)
    return {"name": item.name, "digest": {**digests, **({TREE: tree} if tree else {})}}
