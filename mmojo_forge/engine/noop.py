"""`forge realize TARGET…` when there is nothing to do: answered from the evaluation cache and one database query.

It finds exactly what the full command would find in that case, or nothing at all. Standard library only, and little
of it: `realize` of what is built already must cost no more than a file manager's look at a link.
"""

from __future__ import annotations

import os

from mmojo_forge.engine.locations import configuration_files, find_workspace, store_folder, user_folder
from mmojo_forge.engine.realise import evaluation_cache
from mmojo_forge.store import noop_lookup

COMMANDS = ("realize", "realise")


def find_built(argv: list[str], environment: dict[str, str]) -> list[str] | None:
    """The targets' paths if `argv` asks for targets that are all built and linked already; None if it does not."""
    targets = argv[1:]
    if len(argv) < 2 or argv[0] not in COMMANDS or any(target.startswith("-") for target in targets):
        return None
    workspace, user = find_workspace(os.getcwd()), user_folder(environment)
    store = store_folder(workspace, environment, user) if workspace and user else None
    if not workspace or not user or not store:
        return None
    # What is wrong in them only the full command can say, and it did not when it left the entry.
    configuration = configuration_files(workspace, user)
    cached = evaluation_cache.read(os.path.join(store, "cache", "evaluation"), workspace, targets, configuration)
    if cached is None:
        return None
    return _linked_objects(store, os.path.join(workspace, "out"), cached)


def _linked_objects(store: str, results: str, cached: list[evaluation_cache.CachedTarget]) -> list[str] | None:
    """The objects of all targets, if each is valid, checked out and linked; else None."""
    resolved = noop_lookup.lookup_resolved(store, [derivation for _, derivation, _, _ in cached])
    paths = []
    for target, derivation, output, object_name in cached:
        tree = resolved.get(derivation, {}).get(output)
        path = noop_lookup.object_path(store, tree, object_name) if tree else None
        if path is None or not noop_lookup.has_root(store, os.path.join(results, target), path):
            return None
        paths.append(path)
    return paths
