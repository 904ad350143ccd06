"""Circuit breaker: a cache that failed several times in a row is left alone for a while (Nygard, "Release It!")."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Breaker:
    """How a cache has done lately: a value, which each outcome turns into the next one. Times are in seconds, of any
    clock that does not go backwards.

    After `limit` failures in a row it is open for `pause` seconds. Then one attempt is let through; if that fails as
    well the pause doubles, up to `longest`.
    """

    limit: int = 3
    pause: float = 30.0
    longest: float = 600.0
    failures: int = 0
    until: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether the cache may be asked."""
        return now >= self.until

    def failed(self, now: float) -> Breaker:
        """The breaker after one more failure. One that was under way when the breaker opened does not lengthen it."""
        if not self.allows(now):
            return self
        failures = self.failures + 1
        if failures < self.limit:
            return replace(self, failures=failures)
        # Bounded, for 2.0 ** 1024 is no number.
        doublings = min(failures - self.limit, 60)
        return replace(self, failures=failures, until=now + min(self.pause * 2.0**doublings, self.longest))

    def succeeded(self) -> Breaker:
        """The breaker after an answer."""
        return replace(self, failures=0, until=0.0)
