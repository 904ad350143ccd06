"""Indexes: the traces of everything below one derivation in one object, so that planning is one request.

    {"root":"<derivation id>","schema":1,"traces":[<entry>,…]}

An index is named by the id of a derivation, which a client knows before it knows anything else, and by who wrote it. It
is the one kind of object that is written anew when there is more to say; each writer has its own, so none is lost. What
is in it is signed entry by entry, so an old or foreign index can only say less.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mmojo_forge.model.digest import ActionKey, DerivationId
from mmojo_forge.model.trace import Trace
from mmojo_forge.store.remote import entry, layout
from mmojo_forge.store.remote.entry import Checker
from mmojo_forge.store.remote.failure import CacheError, lying


def encode(root: DerivationId, traces: Iterable[Trace]) -> bytes:
    """The index, not compressed."""
    rows = [entry.to_json(trace) for trace in sorted(traces, key=lambda trace: trace.key)]
    document = {"schema": layout.SCHEMA, "root": root, "traces": rows}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def parse(
    encoded: bytes, root: DerivationId, checker: Checker, path: str
) -> tuple[dict[ActionKey, list[Trace]], list[CacheError]]:
    """The traces by key, and what is wrong with others; raises CacheError (`cache-schema`, `cache-malformed`)."""
    try:
        document = json.loads(encoded)
        if document["schema"] != layout.SCHEMA:
            raise lying(checker.place, path, f"schema {document['schema']!r} is not {layout.SCHEMA}", "cache-schema")
        if document["root"] != root or not isinstance(document["traces"], list):
            raise ValueError("it is another one's")
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
    return traces, errors
