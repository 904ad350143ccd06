"""What the caches have of a workspace: what somebody with an empty store would have to build.

For each cache a plan is made against a store that has nothing; what that plan would build is what the cache lacks.
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
    """What a cache has of one target: whether all of it could be downloaded, its bytes of content, who built it when
    (seconds since the epoch), and how many of the `nodes` that lead to it are known there."""

    target: str
    complete: bool
    size: int
    builder: str
    started: float
    known: int
    nodes: int


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """One cache: what it says about itself, or why it cannot be used; what it has of each target; what is wrong."""

    name: str
    info: CacheInfo | None
    error: CacheError | None
    targets: tuple[TargetStatus, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> int:
        """How many targets could be downloaded."""
        return sum(target.complete for target in self.targets)

    @property
    def size(self) -> int:
        """Bytes of content of those."""
        return sum(target.size for target in self.targets if target.complete)

    @property
    def newest(self) -> float | None:
        """When the latest of them was built."""
        return max((target.started for target in self.targets if target.complete), default=None)


class _Empty:
    """Metadata of a store that has nothing."""

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
    """What one cache has of these targets."""
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
        ", ".join(one.key.partition(":")[0] for one in claim.signatures),
        claim.started,
        len(plan.claims),
        nodes,
    )
