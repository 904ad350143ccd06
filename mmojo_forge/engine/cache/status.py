"""`forge cache status`: which targets of a workspace each cache has.

For each cache, forge plans as if the local store were empty. What that plan would build is missing in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmojo_forge.cache.failure import CacheError
from mmojo_forge.cache.format.info import CacheInfo
from mmojo_forge.engine.cache.substituter import Caches, NamedCache
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Action, Plan, make_plan, resolution_of
from mmojo_forge.engine.protocols import Clock, PastBuild
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace
from mmojo_forge.recipe.evaluate import Instance
from mmojo_forge.store.protocol import Store


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """What a cache has of one target.

    `complete` means that it can be downloaded without a build. `size` is its content in bytes, `started` the time of
    the build in seconds since the epoch. The cache has traces of `known` of the `nodes` in the target's closure.
    """

    target: str
    complete: bool
    size: int
    builder: str
    started: float
    known: int
    nodes: int


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """One cache: its info, or the error that makes it unusable; the status of each target; and warnings."""

    name: str
    info: CacheInfo | None
    error: CacheError | None
    targets: tuple[TargetStatus, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> int:
        """The number of targets that can be downloaded."""
        return sum(target.complete for target in self.targets)

    @property
    def size(self) -> int:
        """The content of these targets, in bytes."""
        return sum(target.size for target in self.targets if target.complete)

    @property
    def newest(self) -> float | None:
        """The time of the latest build among them, in seconds since the epoch; None if there are none."""
        return max((target.started for target in self.targets if target.complete), default=None)


class _Empty:
    """The Metadata of an empty store."""

    def lookup(self, keys: Sequence[ActionKey]) -> dict[ActionKey, Trace]:
        return {}

    def lookup_resolved(self, derivations: Sequence[DerivationId]) -> dict[DerivationId, dict[str, TreeId]]:
        return {}

    def valid_trees(self, trees: Iterable[TreeId]) -> set[TreeId]:
        return set()

    def history(self, names: Iterable[str]) -> Mapping[str, PastBuild]:
        return {}


def cache_status(
    cache: NamedCache, instances: Mapping[str, Instance], store: Store, *, agree: int, clock: Clock
) -> CacheStatus:
    """The status of one cache for these targets. Errors of the cache are part of the result, and not raised."""
    try:
        reader = cache.open()
        info = reader.info()
    except CacheError as error:
        return CacheStatus(cache.name, None, error)
    warnings: list[str] = []
    caches = Caches([cache], store, agree=agree, warn=warnings.append, clock=clock)
    caches.expect([instance.node.id for instance in instances.values()])
    plans = {
        target: make_plan(Graph.of_outputs([(instance.node, instance.output)]), _Empty(), caches)
        for target, instance in instances.items()
    }
    claimed = {
        output.tree
        for target, instance in instances.items()
        if (claim := plans[target].claims.get(instance.node.id))
        for output in claim.outputs.values()
    }
    try:
        there = reader.has_trees(claimed)
    except CacheError as error:
        return CacheStatus(cache.name, info, error)
    rows = tuple(_target(target, instances[target], plan, there) for target, plan in plans.items())
    return CacheStatus(cache.name, info, None, rows, tuple(warnings))


def _target(target: str, instance: Instance, plan: Plan, there: set[TreeId]) -> TargetStatus:
    claim = plan.claims.get(instance.node.id)
    nodes = sum(1 for _ in plan.graph.derivations())
    if claim is None:
        return TargetStatus(target, False, 0, "", 0.0, len(plan.claims), nodes)
    needed = set(plan.graph.needed(instance.node, resolution_of(claim)).values())
    sizes = {output.tree: output.size for output in claim.outputs.values()}
    builds = any(step.action is Action.BUILD for step in plan.steps)
    return TargetStatus(
        target,
        not builds and there.issuperset(needed),
        sum(sizes[tree] for tree in needed),
        ", ".join(signature.key.partition(":")[0] for signature in claim.signatures),
        claim.started,
        len(plan.claims),
        nodes,
    )
