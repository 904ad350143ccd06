"""Trace entries in bundles: a trace as JSON, with its preimage and its signatures, as caches have it too.

    {"builder":…,"key":…,"name":…,"outputs":{"out":{"size":…,"tree":…}},"peak":…,"preimage":"…","schema":1,
     "seconds":…,"signatures":[{"key":"NAME:BASE64","value":"BASE64"}],"started":…}

A trace that came in a bundle says so: its builder is `imported:` and the name that the file gives. A signature covers
the name without that prefix.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

from mmojo_forge.model.digest import ActionKey, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.trace import Output, Signature, Trace
from mmojo_forge.store.bundle import BundleError, malformed

SCHEMA = 1
IMPORTED = "imported:"
_MOST = 2.0**53
_LONGEST = 200
_MOST_SIGNATURES = 64


def encode(trace: Trace) -> bytes:
    """The entry of a trace."""
    document = {
        "schema": SCHEMA,
        "key": trace.key,
        "name": trace.name,
        "preimage": trace.preimage.decode(),
        "outputs": {name: {"size": one.size, "tree": one.tree} for name, one in trace.outputs.items()},
        "builder": trace.builder.removeprefix(IMPORTED),
        "started": trace.started,
        "seconds": trace.seconds,
        "peak": trace.peak_memory_bytes,
        "signatures": [{"key": one.key, "value": base64.b64encode(one.value).decode()} for one in trace.signatures],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def parse(data: bytes, key: ActionKey) -> Trace:
    """The trace of an entry that is to be for `key`; raises BundleError (`bundle-malformed`, `bundle-wrong-trace`)."""
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise malformed(f"the schema of trace {key} is not {SCHEMA}")
        preimage = document["preimage"].encode()
        if document["key"] != key or blake3_hex(preimage) != key:
            raise BundleError(
                f"import bundle: trace {key} is not what its key is made of",
                detail="Somebody changed it; nothing of the bundle was taken in.",
                reason="bundle-wrong-trace",
            )
        return _trace(document, key, preimage, json.loads(preimage))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise malformed(f"trace {key} cannot be read: {error}"[:300]) from error


def _trace(document: Mapping[str, Any], key: ActionKey, preimage: bytes, described: Mapping[str, Any]) -> Trace:
    outputs = {name: _output(row) for name, row in document["outputs"].items()}
    if sorted(outputs) != sorted(described["outputs"]) or not isinstance(described["label"], dict):
        raise ValueError("its outputs are not those of the derivation")
    if not all(isinstance(edge["tree"], str) for edge in described["inputs"].values()):
        raise ValueError("its inputs are no trees")
    return Trace(
        key=key,
        name=_short(described["name"]),
        preimage=preimage,
        outputs=outputs,
        builder=IMPORTED + _short(document["builder"]),
        started=_number(document["started"]),
        seconds=_number(document["seconds"]),
        peak_memory_bytes=int(_number(document["peak"])),
        signatures=tuple(_signature(row) for row in document.get("signatures", ())[:_MOST_SIGNATURES]),
    )


def _output(row: Mapping[str, Any]) -> Output:
    tree, size = row["tree"], row["size"]
    if not is_hex_digest(tree) or type(size) is not int or not 0 <= size <= _MOST:
        raise ValueError("an output is not one")
    return Output(TreeId(tree), size)


def _signature(row: Mapping[str, Any]) -> Signature:
    return Signature(_short(row["key"]), base64.b64decode(row["value"], validate=True))


def _short(text: Any) -> str:
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isprintable():
        raise ValueError("a name is not one")
    return text


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("a number is not one")
    if not math.isfinite(value) or not 0 <= value <= _MOST:
        raise ValueError("a number is out of range")
    return float(value)
