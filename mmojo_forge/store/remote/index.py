"""Indexes: the traces of everything below one derivation in one object, so that planning is one request.

    {"root":"<derivation id>","schema":1,"traces":[<entry>,…],"trees":["<tree id>",…]}

An index is named by the id of a derivation, which a client knows before it knows anything else, and by who wrote it. It
is the one kind of object that is written anew when there is more to say; each writer has its own, so none is lost. What
is in it is signed entry by entry, so an old or foreign index can only say less. `trees` are those whose content was
pushed: nobody signs for that, and whoever finds that it is not so has a miss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from mmojo_forge.model import trace_entry
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId, is_hex_digest
from mmojo_forge.model.trace import Trace
from mmojo_forge.store.remote import layout
from mmojo_forge.store.remote.entry import Checker
from mmojo_forge.store.remote.failure import CacheError, lying


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


def parse(encoded: bytes, root: DerivationId, checker: Checker, path: str) -> Index:
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
