"""Indexes and signed trace entries, and how a reader verifies them.

An index holds the traces of a derivation's whole closure in one object, so that planning takes one request:

    {"root":"<derivation id>","schema":1,"traces":[<entry>,…],"trees":["<tree id>",…]}

Its path has the derivation id, which a client knows before it asks anything, and the writer's signer id. An index is
the only kind of object that is rewritten. Each writer has its own, so that writers do not overwrite each other.
Every entry is signed on its own, so an old or foreign index can omit entries but cannot forge them. `trees` lists
the trees whose content was pushed. Nobody signs that list; if it is wrong, the reader has a miss.

A trace entry (model/trace_entry.py) is a builder's signed claim about the outputs of an action key. The signature
covers `Trace.fingerprint()`: builder, key, label and outputs. The key is the BLAKE3 of the preimage, and so verifies
it; name and label come from the preimage. Times and memory are unsigned, and only displayed. An entry in `traces/`
has one signature, by the signer in its path; an entry in an index can have several.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mmojo_forge.cache.failure import CacheError, lying
from mmojo_forge.cache.format import layout
from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId, is_hex_digest
from mmojo_forge.model.signature import PublicKey, SignatureError
from mmojo_forge.model.trace import Trace, TraceSignature
from mmojo_forge.model.trace_entry import EntryError


@dataclass(frozen=True, slots=True)
class TraceChecker:
    """Parses and verifies trace entries from a cache.

    Each returned trace has at least one signature, and only valid ones by `trusted` keys. Its key matches its preimage
    and name.
    """

    trusted: tuple[PublicKey, ...]
    place: str

    def parse(self, encoded: bytes, path: str, key: ActionKey, signer: str) -> Trace:
        """The trace in an entry for `key` by the signer with the id `signer`; raises CacheError (`trace-…`)."""
        try:
            document = json.loads(encoded)
        except (ValueError, RecursionError) as error:
            raise self._malformed(path, error) from error
        trace = self.read(document, path)
        if trace.key != key:
            raise lying(self.place, path, f"it is an entry for {trace.key}", "trace-wrong-key")
        if all(layout.signer_id(PublicKey.parse(signature.key)) != signer for signature in trace.signatures):
            raise lying(self.place, path, "another key signed it", "trace-wrong-signer")
        return trace

    def read(self, document: Any, path: str) -> Trace:
        """The trace in a JSON value; raises CacheError (`trace-…`)."""
        try:
            trace = trace_entry.from_json(document)
            return replace(trace, signatures=tuple(self._signatures(trace, path)))
        except EntryError as error:
            if error.wrong_key:
                raise lying(self.place, path, str(error), "trace-wrong-key") from error
            raise self._malformed(path, error) from error
        except SignatureError as error:
            raise self._malformed(path, error) from error

    def _signatures(self, trace: Trace, path: str) -> Iterable[TraceSignature]:
        """The signatures by trusted keys, with the local names of these keys; raises CacheError if one is invalid."""
        known = {key.key: key for key in self.trusted}
        fingerprint = trace.fingerprint()
        found = {}
        for signature in trace.signatures:
            key = known.get(PublicKey.parse(signature.key).key)
            if key is None:
                continue
            if not key.holds(fingerprint, signature.value):
                raise lying(self.place, path, f"the signature by {key.name} is invalid", "trace-bad-signature")
            # The signer chooses the name in the entry, so the name from our own configuration replaces it.
            found[key.key] = TraceSignature(str(key), signature.value)
        if not found:
            raise lying(self.place, path, "no trusted key signed it", "trace-unknown-signer")
        return found.values()

    def _malformed(self, path: str, error: Exception) -> CacheError:
        return lying(self.place, path, f"malformed trace entry: {error!r}"[:300], "trace-malformed")


def encode(root: DerivationId, traces: Iterable[Trace], trees: Iterable[TreeId] = ()) -> bytes:
    """The index as uncompressed JSON."""
    rows = [trace_entry.to_json(trace) for trace in sorted(traces, key=lambda trace: trace.key)]
    document = {"schema": layout.SCHEMA, "root": root, "traces": rows, "trees": sorted(set(trees))}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed index: the valid traces by key, the errors of the others, and the trees that it claims were pushed."""

    traces: dict[ActionKey, list[Trace]]
    errors: list[CacheError]
    trees: frozenset[TreeId]


def parse(encoded: bytes, root: DerivationId, checker: TraceChecker, path: str) -> Index:
    """The index of a root; raises CacheError (`cache-schema`, `cache-malformed`)."""
    try:
        document = json.loads(encoded)
        if document["schema"] != layout.SCHEMA:
            raise lying(checker.place, path, f"schema {document['schema']!r} is not {layout.SCHEMA}", "cache-schema")
        if document["root"] != root or not isinstance(document["traces"], list):
            raise ValueError("it belongs to another root, or has no list of traces")
        trees = frozenset(TreeId(tree) for tree in document.get("trees", ()) if is_hex_digest(tree))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise lying(checker.place, path, f"malformed index: {error!r}"[:300], "cache-malformed") from error
    traces: dict[ActionKey, list[Trace]] = {}
    errors = []
    for row in document["traces"]:
        try:
            trace = checker.read(row, path)
            traces.setdefault(trace.key, []).append(trace)
        except CacheError as error:
            errors.append(error)
    return Index(traces, errors, trees)
