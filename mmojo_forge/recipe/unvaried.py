"""What recipes say that `forge check` must leave as it is, and why."""

from __future__ import annotations

from collections.abc import Mapping

from mmojo_forge.model.aspect import INHERENT, Aspect
from mmojo_forge.recipe.errors import RecipeError

_CHOICE = tuple(aspect for aspect in Aspect if aspect not in INHERENT)


def aspects_of(name: str, reasons: Mapping[str, str]) -> dict[Aspect, str]:
    """The reasons by aspect, which recipes write with `_` for `-`; `name` is what the recipe builds.

    Raises RecipeError (`no-such-aspect`, `aspect-without-reason`).
    """
    return {_aspect(name, word): _reason(name, word, reason) for word, reason in reasons.items()}


def _aspect(name: str, word: str) -> Aspect:
    for aspect in _CHOICE:
        if word.replace("_", "-") == aspect.value:
            return aspect
    inherent = sorted(aspect.value for aspect in INHERENT)
    raise RecipeError(
        f"declare {name}: checked without {word}, which is no aspect that a check can leave as it is",
        detail=f"Those that it can: {', '.join(aspect.value.replace('-', '_') for aspect in _CHOICE)}. "
        f"Every rebuild has another {', '.join(inherent)}.",
        reason="no-such-aspect",
    )


def _reason(name: str, word: str, reason: str) -> str:
    # Recipes are checked by nobody's type checker; and it is told in one line.
    said = " ".join(reason.split()) if isinstance(reason, str) else ""
    if not said:
        raise RecipeError(
            f"declare {name}: checked without {word}, and not why",
            detail=f'The reason is told with the verdict: checked_without({word}="the reason").',
            reason="aspect-without-reason",
        )
    return said
