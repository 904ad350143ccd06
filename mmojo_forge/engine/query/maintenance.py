"""`forge store gc` and `du`: what a collection must keep for the engine, and the trees of targets.

The CLI imports the stores' values from here, because it may not import layers below the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mmojo_forge.engine.evaluation import evaluate
from mmojo_forge.engine.realise import failed_builds
from mmojo_forge.engine.services import Directories
from mmojo_forge.engine.workspace import Request, Workspace
from mmojo_forge.model.digest import TreeId, is_hex_digest
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.gc import GcPolicy, GcResult, OnStep
from mmojo_forge.store.maintain.usage import ObjectUsage, StoreUsage
from mmojo_forge.store.protocol import Store

__all__ = [
    "GcPolicy",
    "GcResult",
    "ObjectUsage",
    "StoreUsage",
    "collect_store",
    "pinned_by_failed_builds",
    "trees_of",
]


def collect_store(
    store: LocalStore,
    directories: Directories,
    policy: GcPolicy,
    now: float,
    *,
    dry: bool,
    on_step: OnStep,
    on_wait: Callable[[float], None],
) -> GcResult:
    """Collect the store; with `dry`, report what would be removed. Keeps the inputs of kept failed builds.

    `now` is in seconds since the epoch. Raises StoreError.
    """
    return store.maintenance.collect(
        policy,
        now,
        dry=dry,
        pins=lambda: pinned_by_failed_builds(directories),
        on_step=on_step,
        on_wait=on_wait,
    )


def pinned_by_failed_builds(directories: Directories) -> Iterator[TreeId]:
    """The input trees of kept failed builds, which `forge shell` mounts."""
    for request in directories.failed.glob(f"*/{failed_builds.REQUEST}"):
        try:
            mounts = json.loads(request.read_text(encoding="utf-8"))["mounts"]
        except (OSError, ValueError, KeyError):
            continue
        for source, _ in mounts:
            tree = Path(source).name.partition("-")[0]
            if is_hex_digest(tree):
                yield TreeId(tree)


def trees_of(workspace: Workspace, targets: Iterable[str], store: Store) -> dict[str, TreeId]:
    """The tree of each target; raises EngineError (`not-built`), RecipeError."""
    evaluation = evaluate(workspace, Request.parse(targets))
    return evaluation.built(evaluation.plan(store), "find")
