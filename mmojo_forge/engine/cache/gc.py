"""`forge cache gc`: opens the cache that the user names and collects it.

The CLI imports `CacheGcPlan` and its parts from here, because it may not import layers below the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmojo_forge.cache.gc.collect import (
    GRACE,
    CacheGcPlan,
    CacheGcResult,
    CacheRoot,
    OnProgress,
    collect,
    plan_collection,
)
from mmojo_forge.cache.gc.inventory import CacheFileKind
from mmojo_forge.engine.cache.open import open_place
from mmojo_forge.engine.config import CacheTable

__all__ = ["GRACE", "CacheFileKind", "CacheGcPlan", "CacheGcPolicy", "CacheGcResult", "CacheRoot", "collect_cache"]


@dataclass(frozen=True, slots=True)
class CacheGcPolicy:
    """What a collection may remove: content that nobody pushed for `older_than` seconds, oldest first.

    With `target_size`, it stops when the cache is down to that many bytes. It never removes what a push of the last
    `grace` seconds may need.
    """

    older_than: float
    target_size: int | None = None
    grace: float = GRACE


def collect_cache(
    table: CacheTable, environment: Mapping[str, str], policy: CacheGcPolicy, now: float, on_progress: OnProgress | None
) -> tuple[CacheGcPlan, CacheGcResult | None]:
    """The plan of a collection, and its result. Without `on_progress`, nothing is removed. Raises CacheError."""
    transport = open_place(table, environment)
    try:
        planned = plan_collection(transport, now, policy.older_than, policy.target_size, policy.grace)
        return planned, collect(transport, planned, on_progress) if on_progress else None
    finally:
        transport.close()
