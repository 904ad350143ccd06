"""Which of the things that a rebuild varied make the difference: found by rebuilding with fewer of them.

1. Twice with none varied. A build that then differs from itself depends on chance or on the time, and no more is asked.
2. If that is what came out with all of them varied, it is not them but the place, which is always another one.
3. Once with each alone. Those that make a difference are the causes; each is tried again, as chance is none.
4. If none does alone, with all of them once more, and then without one after the other as long as there is a
   difference: what is left makes it together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from mmojo_forge.model.derivation import INHERENT, Aspect

Rebuild = Callable[[frozenset[Aspect]], Hashable]
"""What comes of a rebuild in which only these aspects are varied; equal for rebuilds that count as the same."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a difference comes from: each of the `aspects`, or only all of them `together`; or nothing that was varied,
    as it is there from one rebuild to the next (`unstable`)."""

    aspects: tuple[Aspect, ...] = ()
    together: bool = False
    unstable: bool = False


def find_cause(rebuild: Rebuild, got: Hashable, varied: frozenset[Aspect], pause: Callable[[], None]) -> Cause:
    """Why `got`, which is not what it should be, came out with everything varied; `pause` lets a clock of seconds go
    on between two rebuilds."""
    usual = rebuild(frozenset())
    pause()
    if rebuild(frozenset()) != usual:
        return Cause(unstable=True)
    if usual == got:
        return Cause(tuple(sorted(varied & INHERENT)))
    chosen = tuple(sorted(varied - INHERENT))
    alone = tuple(aspect for aspect in chosen if rebuild(frozenset({aspect})) != usual)
    if any(rebuild(frozenset({aspect})) == usual for aspect in alone):
        return Cause(unstable=True)
    return Cause(alone) if alone else _find_together(rebuild, usual, got, varied, chosen)


def _find_together(
    rebuild: Rebuild, usual: Hashable, got: Hashable, varied: frozenset[Aspect], chosen: tuple[Aspect, ...]
) -> Cause:
    if rebuild(varied) != got:
        return Cause(unstable=True)
    needed = frozenset(chosen)
    for aspect in chosen:
        if rebuild(needed - {aspect}) != usual:
            needed -= {aspect}
    return Cause(tuple(sorted(needed)), together=True)
