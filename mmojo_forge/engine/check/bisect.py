"""Finds which variations cause a difference, by rebuilding with fewer of them.

1. Rebuild twice with nothing varied. If the results differ, the build is unstable (it depends on chance or on the
   time), and the search ends.
2. If that result equals the fully varied one, the inherent aspects are the cause: a rebuild always has another place
   and time.
3. Rebuild with each aspect alone. Those that change the result are causes. Rebuild with each of them again, to rule out
   chance.
4. If no aspect alone changes the result, rebuild with all of them again. Then drop one aspect after the other, as long
   as the result still differs. The remaining aspects cause the difference together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from mmojo_forge.model.derivation import INHERENT, Aspect

Rebuild = Callable[[frozenset[Aspect]], Hashable]
"""Rebuilds with only these aspects varied. The returned values are equal if the rebuilds count as the same."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of a difference: each of the `aspects` alone, or, with `together`, only all of them combined.

    `unstable` means that rebuilds with equal variations differ, so no aspect is the cause.
    """

    aspects: tuple[Aspect, ...] = ()
    together: bool = False
    unstable: bool = False


def find_cause(rebuild: Rebuild, got: Hashable, varied: frozenset[Aspect], pause: Callable[[], None]) -> Cause:
    """The cause of the unexpected result `got`, which came from a rebuild with the aspects in `varied`.

    `pause` waits for more than a second, so that a clock in seconds differs between two rebuilds.
    """
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
