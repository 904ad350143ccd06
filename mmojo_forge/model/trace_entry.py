"""Traces as JSON, the way they travel in caches and bundles.

    {"builder":…,"key":…,"name":…,"outputs":{"out":{"size":…,"tree":…}},"peak":…,"preimage":…,
     "schema":1,"seconds":…,"signatures":[{"key":"NAME:BASE64","value":"BASE64"}],"started":…}

What is read may come from anybody: it has the form of a trace then, its key is that of its preimage, its name and its
outputs are those of the derivation. Whether it is true, and who signed it, is for others to find out.
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
_MOST = 2**53 - 1
_LONGEST = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


class EntryError(ValueError):
    """JSON that is no trace entry. `wrong_key`: it is one, but its key is not that of its preimage."""

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
        "outputs": {name: {"size": one.size, "tree": one.tree} for name, one in trace.outputs.items()},
        "builder": trace.builder,
        "started": trace.started,
        "seconds": trace.seconds,
        "peak": trace.peak_memory_bytes,
        "signatures": [{"key": one.key, "value": base64.b64encode(one.value).decode()} for one in trace.signatures],
    }


def encode(trace: Trace) -> bytes:
    """The entry, with sorted keys."""
    return json.dumps(to_json(trace), sort_keys=True, separators=(",", ":")).encode()


def from_json(document: Any) -> Trace:
    """The trace, with signatures that nobody has checked; raises EntryError."""
    try:
        if document["schema"] != SCHEMA:
            raise EntryError(f"schema {document['schema']!r} is not {SCHEMA}")
        preimage = document["preimage"].encode()
        if blake3_hex(preimage) != document["key"]:
            raise EntryError("the key is not that of the preimage", wrong_key=True)
        return _trace(document, preimage, json.loads(preimage))
    except EntryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EntryError(f"{error!r}"[:300]) from error


def _trace(document: Mapping[str, Any], preimage: bytes, described: Mapping[str, Any]) -> Trace:
    if not _NAME.fullmatch(described["name"]):
        raise ValueError("the derivation has no proper name")
    outputs = {name: _output(row) for name, row in document["outputs"].items()}
    if sorted(outputs) != sorted(described["outputs"]) or not isinstance(described["label"], dict):
        raise ValueError("its outputs are not those of the derivation")
    if not all(isinstance(edge["tree"], str) for edge in described["inputs"].values()):
        raise ValueError("its inputs are no trees")
    if len(document["signatures"]) > MOST_SIGNATURES:
        raise ValueError("more signatures than anybody needs")
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
        raise ValueError("an output has no tree or size")
    return TraceOutput(TreeId(tree), size)


def _signature(row: Mapping[str, Any]) -> TraceSignature:
    return TraceSignature(_short(row["key"]), base64.b64decode(row["value"], validate=True))


def _short(text: object) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isprintable():
        raise ValueError("a name is not one")
    return text


def _number(value: object) -> float:
    # What is no number is not within these bounds either.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is no time or size")
    return float(value)
