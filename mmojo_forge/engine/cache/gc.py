"""`forge cache gc`, from a cache as the user names it to what went and what stayed.

The CLI imports `CacheGcPlan` and what is in it from here; it knows no layer below the engine.
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
    """What may go: what was not pushed for `older_than` seconds, oldest first, down to `target_size` bytes if that is
    given; nothing that a push of the last `grace` seconds may need."""

    older_than: float
    target_size: int | None = None
    grace: float = GRACE


def collect_cache(
    table: CacheTable, environment: Mapping[str, str], policy: CacheGcPolicy, now: float, on_progress: OnProgress | None
) -> tuple[CacheGcPlan, CacheGcResult | None]:
    """What may go from the cache, and what went; without `on_progress` nothing goes. Raises CacheError."""
    transport = open_place(table, environment)
    try:
        planned = plan_collection(transport, now, policy.older_than, policy.target_size, policy.grace)
        return planned, collect(transport, planned, on_progress) if on_progress else None
    finally:
        transport.close()
