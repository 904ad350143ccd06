"""`forge realize TARGET…` when there is nothing to do: answered from the evaluation cache and one database query.

It does exactly what the full command would do in that case, or nothing at all. Standard library only, and little
of it: `realize` of what is built already must cost no more than a file manager's look at a link.
"""

from __future__ import annotations

import os

from mmojo_forge.cli.locations import find_workspace, store_folder
from mmojo_forge.engine import evaluation_cache
from mmojo_forge.store import known

COMMANDS = ("realize", "realise")


def realize(argv: list[str], environment: dict[str, str]) -> bool:
    """Print the targets' paths if all are built and linked already; false (and no effect) if not."""
    targets = argv[1:]
    if len(argv) < 2 or argv[0] not in COMMANDS or any(target.startswith("-") for target in targets):
        return False
    workspace = find_workspace(os.getcwd())
    if workspace is None:
        return False
    store = store_folder(workspace, environment)
    cached = evaluation_cache.read(os.path.join(store, "cache", "evaluation"), workspace, targets)
    if cached is None:
        return False
    paths = _linked_objects(store, os.path.join(workspace, "out"), cached)
    if paths is None:
        return False
    print("\n".join(paths))
    return True


def _linked_objects(store: str, results: str, cached: list[evaluation_cache.CachedTarget]) -> list[str] | None:
    """The objects of all targets, if each is valid, checked out and linked; else None."""
    resolved = known.lookup_resolved(store, [derivation for _, derivation, _, _ in cached])
    paths = []
    for target, derivation, output, object_name in cached:
        tree = resolved.get(derivation, {}).get(output)
        path = known.object_path(store, tree, object_name) if tree else None
        if path is None or not known.has_root(store, os.path.join(results, target), path):
            return None
        paths.append(path)
    return paths
