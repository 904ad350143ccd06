"""Encodes bills of materials as CycloneDX 1.6 documents, in JSON (ECMA-424).

`components` has what is in the result; `formulation` has what it was built with. Scanners report every component, so
with the tools among them they would warn about, say, the shell that ran the build.

The same bill gives the same bytes: keys are sorted, the serial number is a hash of the content, and a time appears only
if one is given.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mmojo_forge import __version__
from mmojo_forge.engine.sbom import licence
from mmojo_forge.engine.sbom.bom import FILE_REF, Bill, BomItem, Origin

_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:mmojo-forge:bill")
_TOOL = "mmojo-forge"


def encode(bill: Bill, *, epoch: int | None = None) -> bytes:
    """The document, one JSON object. `epoch`, in seconds, becomes its timestamp."""
    return _dump(_document(bill, epoch))


def _dump(document: dict[str, Any]) -> bytes:
    serial = uuid.uuid5(_SPACE, json.dumps(document, sort_keys=True))
    document["serialNumber"] = f"urn:uuid:{serial}"
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def replace_files(data: bytes, name: str, kept: Container[str], added: Sequence[BomItem]) -> bytes | None:
    """Update the document of a file that is packaged again; None if `data` is not a document made by forge.

    The root is renamed to `name` unless that is empty. Packed files stay if their name is in `kept`; `added` are new.
    The result has the same bytes as a document encoded from scratch.
    """
    try:
        document = json.loads(data)
        if document["metadata"]["tools"]["components"][0]["name"] != _TOOL:
            return None
        return _dump(_replace_files(document, name, kept, added))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def _replace_files(
    document: dict[str, Any], name: str, kept: Container[str], added: Sequence[BomItem]
) -> dict[str, Any]:
    root = document["metadata"]["component"]
    before = root["bom-ref"]
    if name:
        root.update({"name": name, "bom-ref": f"{FILE_REF}{name}#"})
    new = {item.name for item in added}

    def stays(entry: dict[str, Any]) -> bool:
        return not entry["bom-ref"].startswith(FILE_REF) or (entry["name"] in kept and entry["name"] not in new)

    gone = {entry["bom-ref"] for entry in document["components"] if not stays(entry)}
    components = [entry for entry in document["components"] if stays(entry)]
    components += [{**_component(item), "scope": "required"} for item in added]
    document["components"] = sorted(
        components, key=lambda entry: (entry["name"].lower(), entry.get("version", ""), entry["bom-ref"])
    )
    below = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    refs = sorted({*below.pop(before), *(item.ref for item in added)} - gone)
    below[root["bom-ref"]] = refs
    document["dependencies"] = [{"ref": ref, "dependsOn": row} for ref, row in sorted(below.items())]
    document["compositions"][0]["assemblies"] = [root["bom-ref"]]
    document["formulation"][0]["bom-ref"] = f"formula:{root['bom-ref']}"
    # The serial number is a hash of the rest; _dump makes a new one.
    del document["serialNumber"]
    return document


def _document(bill: Bill, epoch: int | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "component": _component(bill.root),
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [{"type": "application", "name": _TOOL, "version": __version__}]},
    }
    if epoch is not None:
        metadata["timestamp"] = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": [{**_component(item), "scope": "required"} for item in bill.contained],
        "dependencies": [{"ref": ref, "dependsOn": list(below)} for ref, below in sorted(bill.depends.items())],
        "compositions": _compositions(bill),
        "formulation": [
            {
                "bom-ref": f"formula:{bill.root.ref}",
                "components": [{**_component(item), "scope": "excluded"} for item in bill.built_with],
            }
        ],
    }


def _compositions(bill: Bill) -> list[dict[str, Any]]:
    """The completeness of the list: unknown if any build in it does not declare its contents."""
    aggregate = "unknown" if bill.undeclared else "complete"
    return [{"aggregate": aggregate, "assemblies": [bill.root.ref]}]


def _component(item: BomItem) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": item.kind.value,
        "bom-ref": item.ref,
        "name": item.name,
        "version": item.version,
        "purl": item.purl,
        "cpe": cpe_of(item),
        "licenses": _licences(item.licence),
        "hashes": _hashes(item.hashes),
        "externalReferences": [_reference(item.origin)] if item.origin else [],
        "properties": [{"name": name, "value": value} for name, value in sorted(item.properties.items())],
    }
    return {name: value for name, value in fields.items() if value}


def cpe_of(item: BomItem) -> str:
    """The CPE 2.3 name of an item, for the National Vulnerability Database; empty if it has none."""
    return f"cpe:2.3:a:{item.cpe}:{item.version or '*'}:*:*:*:*:*:*:*" if item.cpe else ""


def _licences(text: str) -> list[dict[str, Any]]:
    expression = licence.canonical(text)
    if licence.is_identifier(text):
        return [{"license": {"id": expression}}]
    if expression:
        return [{"expression": expression}]
    return [{"license": {"name": text or licence.NOASSERTION}}]


def _hashes(hashes: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"alg": algorithm, "content": digest} for algorithm, digest in sorted(hashes.items())]


def _reference(origin: Origin) -> dict[str, Any]:
    return {
        "type": "source-distribution",
        "url": iri_of(origin.locator),
        "comment": f"taken from {origin.name}",
        "hashes": _hashes(origin.hashes),
    }


def iri_of(locator: str) -> str:
    """A locator as an IRI: `url:` is removed, `git:` becomes `git+`, other schemes stay."""
    scheme, _, rest = locator.partition(":")
    return rest if scheme == "url" else f"git+{rest}" if scheme == "git" else locator
