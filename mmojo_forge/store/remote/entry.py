"""Signed trace entries: what a builder says an action key was built to, and how that is checked.

    {"builder":…,"key":…,"name":…,"outputs":{"out":{"size":…,"tree":…}},"peak":…,"preimage":…,
     "schema":1,"seconds":…,"signatures":[{"key":"NAME:BASE64","value":"BASE64"}],"started":…}

The signature covers `Trace.fingerprint()`: builder, key, label, outputs. The preimage is checked by the key, which is
its BLAKE3; name and label are taken from it. Times and memory are nobody's promise and only shown. An entry in
`traces/` has one signature, by the signer in its name; the same in an index has any number of them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import ActionKey, TreeId, blake3_hex, is_hex_digest
from mmojo_forge.model.signature import PublicKey
from mmojo_forge.model.trace import Output, Signature, Trace
from mmojo_forge.store.remote import layout
from mmojo_forge.store.remote.failure import CacheError, lying

_MOST = 2**53 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


def encode(trace: Trace) -> bytes:
    """The entry of a trace, with its signatures."""
    return json.dumps(to_json(trace), sort_keys=True, separators=(",", ":")).encode()


def to_json(trace: Trace) -> dict[str, Any]:
    """The entry as a JSON value."""
    return {
        "schema": layout.SCHEMA,
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


@dataclass(frozen=True, slots=True)
class Checker:
    """Reads what a cache gives as traces. Callers may assume that each has one signature or more, all of them by
    `trusted` keys and valid, and that key, preimage and name belong together."""

    trusted: tuple[PublicKey, ...]
    place: str

    def parse(self, encoded: bytes, path: str, key: ActionKey, signer: str) -> Trace:
        """The trace of an entry for `key` by the signer with that id; raises CacheError (`trace-…`)."""
        try:
            document = json.loads(encoded)
        except (ValueError, RecursionError) as error:
            raise self._malformed(path, error) from error
        trace = self.read(document, path)
        if trace.key != key:
            raise lying(self.place, path, f"it is an entry for {trace.key}", "trace-wrong-key")
        if all(layout.signer_id(PublicKey.parse(one.key)) != signer for one in trace.signatures):
            raise lying(self.place, path, "it is signed by another", "trace-wrong-signer")
        return trace

    def read(self, document: Any, path: str) -> Trace:
        """The trace that a JSON value is; raises CacheError (`trace-…`, `cache-schema`)."""
        try:
            if document["schema"] != layout.SCHEMA:
                raise lying(self.place, path, f"schema {document['schema']!r} is not {layout.SCHEMA}", "cache-schema")
            trace = _trace(document)
            if blake3_hex(trace.preimage) != trace.key:
                raise lying(self.place, path, "the key is not that of the preimage", "trace-wrong-key")
            return replace(trace, signatures=tuple(self._signatures(trace, path)))
        except CacheError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ForgeError) as error:
            raise self._malformed(path, error) from error

    def _signatures(self, trace: Trace, path: str) -> Iterable[Signature]:
        """Those by trusted keys, under the names that these have here; all of them have to hold."""
        known = {key.key: key for key in self.trusted}
        fingerprint = trace.fingerprint()
        found = {}
        for one in trace.signatures:
            key = known.get(PublicKey.parse(one.key).key)
            if key is None:
                continue
            if not key.holds(fingerprint, one.value):
                raise lying(self.place, path, f"the signature of {key.name} does not hold", "trace-bad-signature")
            found[key.key] = Signature(str(key), one.value)
        if not found:
            raise lying(self.place, path, "it is signed by nobody who is trusted here", "trace-unknown-signer")
        return found.values()

    def _malformed(self, path: str, error: Exception) -> CacheError:
        return lying(self.place, path, f"no trace entry: {error!r}"[:300], "trace-malformed")


def _trace(document: Mapping[str, Any]) -> Trace:
    """The trace as it is written, with signatures that nobody has checked; raises ValueError and its like."""
    preimage = document["preimage"].encode()
    described = json.loads(preimage)
    if not _NAME.fullmatch(described["name"]):
        raise ValueError("the derivation has no proper name")
    outputs = {name: _output(row) for name, row in document["outputs"].items()}
    if sorted(outputs) != sorted(described["outputs"]):
        raise ValueError("the outputs are not those of the derivation")
    return Trace(
        key=ActionKey(document["key"]),
        name=described["name"],
        preimage=preimage,
        outputs=outputs,
        builder=str(document["builder"]),
        started=_finite(document["started"]),
        seconds=_finite(document["seconds"]),
        peak_memory_bytes=int(_finite(document["peak"])),
        signatures=tuple(
            Signature(str(row["key"]), base64.b64decode(row["value"], validate=True)) for row in document["signatures"]
        ),
    )


def _output(row: Mapping[str, Any]) -> Output:
    tree, size = row["tree"], row["size"]
    if not is_hex_digest(tree) or type(size) is not int or not 0 <= size <= _MOST:
        raise ValueError("an output has no tree or size")
    return Output(TreeId(tree), size)


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is no time or size")
    return float(value)
