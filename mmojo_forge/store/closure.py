"""What trees were built from, as the build trace tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store.database import Database


def build_closure(database: Database, roots: Iterable[TreeId]) -> set[TreeId]:
    """The trees, and all that any trace says they were built from, sources included."""
    inputs = _inputs(database)
    reached: set[TreeId] = set()
    pending = list(roots)
    while pending:
        tree = pending.pop()
        if tree not in reached:
            reached.add(tree)
            pending.extend(inputs.get(tree, ()))
    return reached


def _inputs(database: Database) -> dict[TreeId, set[TreeId]]:
    inputs: dict[TreeId, set[TreeId]] = {}
    for outputs, preimage in database.query("SELECT outputs, preimage FROM traces"):
        try:
            below = {TreeId(edge["tree"]) for edge in json.loads(preimage)["inputs"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not the preimage of a derivation: it names nothing, and `verify` says so if it was tampered with.
            continue
        for output in json.loads(outputs).values():
            inputs.setdefault(TreeId(output["tree"]), set()).update(below)
    return inputs
