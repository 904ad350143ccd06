"""Trace entries: the JSON form of traces in caches and bundles.

    {"builder":…,"key":…,"name":…,"outputs":{"out":{"size":…,"tree":…}},"peak":…,"preimage":…,
     "schema":1,"seconds":…,"signatures":[{"key":"NAME:BASE64","value":"BASE64"}],"started":…}

An entry may come from anybody. `from_json` checks its form, that its key is the hash of its preimage, and that name and
outputs match the derivation. The caller decides whether to believe the trace, and checks its signatures.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from mmojo_forge.model.digest import ActionKey, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.trace import Trace, TraceOutput, TraceSignature

SCHEMA = 1
MOST_SIGNATURES = 64
_MOST = 2**53 - 1  # the largest integer that every JSON parser reads exactly
_LONGEST = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


class EntryError(ValueError):
    """The JSON is not a trace entry. `wrong_key`: it is one, but the key is not the hash of the preimage."""

    def __init__(self, message: str, *, wrong_key: bool = False) -> None:
        super().__init__(message)
        self.wrong_key = wrong_key


def to_json(trace: Trace) -> dict[str, Any]:
    """The entry as a JSON value."""
    return {
        "schema": SCHEMA,
        "key": trace.key,
        "name": trace.name,
        "preimage": trace.preimage.decode(),
        "outputs": {name: {"size": output.size, "tree": output.tree} for name, output in trace.outputs.items()},
        "builder": trace.builder,
        "started": trace.started,
        "seconds": trace.seconds,
        "peak": trace.peak_memory_bytes,
        "signatures": [
            {"key": signature.key, "value": base64.b64encode(signature.value).decode()}
            for signature in trace.signatures
        ],
    }


def encode(trace: Trace) -> bytes:
    """The entry as JSON with sorted keys."""
    return json.dumps(to_json(trace), sort_keys=True, separators=(",", ":")).encode()


def from_json(document: Any) -> Trace:
    """The trace of an entry, with unchecked signatures; raises EntryError."""
    try:
        if document["schema"] != SCHEMA:
            raise EntryError(f"schema {document['schema']!r} is not {SCHEMA}")
        preimage = document["preimage"].encode()
        if blake3_hex(preimage) != document["key"]:
            raise EntryError("the key is not the hash of the preimage", wrong_key=True)
        return _trace(document, preimage, json.loads(preimage))
    except EntryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EntryError(f"{error!r}"[:300]) from error


def _trace(document: Mapping[str, Any], preimage: bytes, described: Mapping[str, Any]) -> Trace:
    if not _NAME.fullmatch(described["name"]):
        raise ValueError("the derivation has an invalid name")
    outputs = {name: _output(row) for name, row in document["outputs"].items()}
    if sorted(outputs) != sorted(described["outputs"]) or not isinstance(described["label"], dict):
        raise ValueError("its outputs are not those of the derivation, or the label is malformed")
    if not all(isinstance(edge["tree"], str) for edge in described["inputs"].values()):
        raise ValueError("an input has no tree")
    if len(document["signatures"]) > MOST_SIGNATURES:
        raise ValueError(f"it has more than {MOST_SIGNATURES} signatures")
    return Trace(
        key=ActionKey(document["key"]),
        name=described["name"],
        preimage=preimage,
        outputs=outputs,
        builder=_short(document["builder"]),
        started=_number(document["started"]),
        seconds=_number(document["seconds"]),
        peak_memory_bytes=int(_number(document["peak"])),
        signatures=tuple(_signature(row) for row in document["signatures"]),
    )


def _output(row: Mapping[str, Any]) -> TraceOutput:
    tree, size = row["tree"], row["size"]
    if not is_hex_digest(tree) or type(size) is not int or not 0 <= size <= _MOST:
        raise ValueError("an output has no valid tree or size")
    return TraceOutput(TreeId(tree), size)


def _signature(row: Mapping[str, Any]) -> TraceSignature:
    return TraceSignature(_short(row["key"]), base64.b64decode(row["value"], validate=True))


def _short(text: object) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isprintable():
        raise ValueError(f"a name is not printable text of at most {_LONGEST} characters")
    return text


def _number(value: object) -> float:
    # NaN fails the comparison too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a time or size")
    return float(value)
