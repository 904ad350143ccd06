"""Encodes bills of materials as SPDX 2.3 documents, in JSON.

SPDX requires a creation time. It defaults to the start of the epoch, so that the same bill gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from mmojo_forge import __version__
from mmojo_forge.engine.sbom import licence
from mmojo_forge.engine.sbom.bom import REDISTRIBUTABLE_PROPERTY, SHA256, Bill, BomItem, BomKind
from mmojo_forge.engine.sbom.cyclonedx import cpe_of, iri_of

_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:mmojo-forge:spdx")
_PURPOSES = MappingProxyType(
    {BomKind.APPLICATION: "APPLICATION", BomKind.LIBRARY: "LIBRARY", BomKind.FILE: "FILE", BomKind.MODEL: "OTHER"}
)
_DOCUMENT = "SPDXRef-DOCUMENT"


def encode(bill: Bill, *, epoch: int | None = None) -> bytes:
    """The document, one JSON object. `epoch`, in seconds, becomes its creation time."""
    document = _document(bill, epoch or 0)
    number = uuid.uuid5(_SPACE, json.dumps(document, sort_keys=True))
    document["documentNamespace"] = f"urn:uuid:{number}"
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _document(bill: Bill, epoch: int) -> dict[str, Any]:
    items = [bill.root, *bill.contained, *bill.built_with]
    packages = {item.ref: _package(item) for item in items}
    origins = {item.ref: _origin(item) for item in items if item.origin}
    by_id = {package["SPDXID"]: package for package in (*packages.values(), *origins.values())}
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": bill.root.name,
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: mmojo-forge-{__version__}"],
        },
        "packages": [by_id[identifier] for identifier in sorted(by_id)],
        "relationships": sorted(_relationships(bill), key=lambda row: json.dumps(row, sort_keys=True)),
        "hasExtractedLicensingInfos": _references(items),
    }


def _relationships(bill: Bill) -> Iterator[dict[str, str]]:
    yield _relationship(_DOCUMENT, "DESCRIBES", _id(bill.root.ref))
    for ref, below in bill.depends.items():
        yield from (_relationship(_id(ref), "CONTAINS", _id(item_ref)) for item_ref in below)
    for tool in bill.built_with:
        yield _relationship(_id(tool.ref), "BUILD_TOOL_OF", _id(bill.root.ref))
    for item in (*bill.contained, *bill.built_with):
        if item.origin:
            yield _relationship(_id(item.ref), "GENERATED_FROM", _id(item.origin.locator))


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(ref: str) -> str:
    # SPDX identifiers allow only letters, digits, dots and hyphens, so hash the ref.
    return f"SPDXRef-{hashlib.sha256(ref.encode()).hexdigest()[:24]}"


def _package(item: BomItem) -> dict[str, Any]:
    references = [("PACKAGE-MANAGER", "purl", item.purl), ("SECURITY", "cpe23Type", cpe_of(item))]
    return {
        **_plain(item.ref, item.name, item.hashes),
        **({"versionInfo": item.version} if item.version else {}),
        **_comment(item),
        "downloadLocation": licence.NOASSERTION,
        "licenseConcluded": licence.canonical(item.licence) or licence.NOASSERTION,
        "licenseDeclared": licence.canonical(item.licence) or licence.NOASSERTION,
        "primaryPackagePurpose": _PURPOSES[item.kind],
        "externalRefs": [
            {"referenceCategory": category, "referenceType": kind, "referenceLocator": value}
            for category, kind, value in references
            if value
        ],
    }


def _comment(item: BomItem) -> dict[str, str]:
    """The redistributable property as a comment, because SPDX 2.3 has no properties."""
    said = item.properties.get(REDISTRIBUTABLE_PROPERTY)
    return {"comment": f"{REDISTRIBUTABLE_PROPERTY}={said}"} if said else {}


def _origin(item: BomItem) -> dict[str, Any]:
    assert item.origin is not None
    return {
        **_plain(item.origin.locator, item.origin.name, item.origin.hashes),
        "downloadLocation": licence.NOASSERTION,
        "licenseConcluded": licence.NOASSERTION,
        "licenseDeclared": licence.NOASSERTION,
        "primaryPackagePurpose": "ARCHIVE",
        "comment": f"looked for at {iri_of(item.origin.locator)}",
    }


def _plain(ref: str, name: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "SPDXID": _id(ref),
        "name": name,
        "filesAnalyzed": False,
        "copyrightText": licence.NOASSERTION,
        # The specification allows BLAKE3, but SPDX's own tools reject valid BLAKE3 checksums.
        "checksums": [{"algorithm": "SHA256", "checksumValue": hashes[SHA256]}] if SHA256 in hashes else [],
    }


def _references(items: list[BomItem]) -> list[dict[str, str]]:
    """An entry for each LicenseRef, which SPDX requires. The texts themselves are in the notices."""
    names = sorted({name for item in items for name in licence.references(item.licence)})
    return [
        {"licenseId": name, "name": name.removeprefix("LicenseRef-").replace("-", " "), "extractedText": "See notices."}
        for name in names
    ]
