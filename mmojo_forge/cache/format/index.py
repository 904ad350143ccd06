"""Indexes: the traces of everything below one derivation in one object, so that planning is one request.

    {"root":"<derivation id>","schema":1,"traces":[<entry>,…],"trees":["<tree id>",…]}

An index is named by the id of a derivation, which a client knows before it knows anything else, and by who wrote it. It
is the one kind of object that is written anew when there is more to say; each writer has its own, so none is lost. What
is in it is signed entry by entry, so an old or foreign index can only say less. `trees` are those whose content was
pushed: nobody signs for that, and whoever finds that it is not so has a miss.

Signed trace entries (model/trace_entry.py): what a builder says an action key was built to, and how that is checked.

The signature covers `Trace.fingerprint()`: builder, key, label, outputs. The preimage is checked by the key, which is
its BLAKE3; name and label are taken from it. Times and memory are nobody's promise and only shown. An entry in
`traces/` has one signature, by the signer in its name; the same in an index has any number of them.
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
        """The trace that a JSON value is; raises CacheError (`trace-…`)."""
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
            found[key.key] = TraceSignature(str(key), one.value)
        if not found:
            raise lying(self.place, path, "it is signed by nobody who is trusted here", "trace-unknown-signer")
        return found.values()

    def _malformed(self, path: str, error: Exception) -> CacheError:
        return lying(self.place, path, f"no trace entry: {error!r}"[:300], "trace-malformed")


def encode(root: DerivationId, traces: Iterable[Trace], trees: Iterable[TreeId] = ()) -> bytes:
    """The index, not compressed."""
    rows = [trace_entry.to_json(trace) for trace in sorted(traces, key=lambda trace: trace.key)]
    document = {"schema": layout.SCHEMA, "root": root, "traces": rows, "trees": sorted(set(trees))}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Index:
    """The traces by key, what is wrong with others, and the trees that are said to be there."""

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
            raise ValueError("it is another one's")
        trees = frozenset(TreeId(tree) for tree in document.get("trees", ()) if is_hex_digest(tree))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise lying(checker.place, path, f"no index: {error!r}"[:300], "cache-malformed") from error
    traces: dict[ActionKey, list[Trace]] = {}
    errors = []
    for row in document["traces"]:
        try:
            trace = checker.read(row, path)
            traces.setdefault(trace.key, []).append(trace)
        except CacheError as error:
            errors.append(error)
    return Index(traces, errors, trees)
