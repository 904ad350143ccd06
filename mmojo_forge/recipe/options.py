"""Options of recipes: what a user sets of which recipe, and values as their annotations want them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mmojo_forge.recipe.api import OptionValue, Package, Recipe
from mmojo_forge.recipe.errors import RecipeError


class Overrides:
    """What a user sets, by package and option, and what of it came to something."""

    def __init__(self, wanted: Mapping[str, Mapping[str, str]]) -> None:
        self._wanted = wanted
        self._heeded: set[tuple[str, str]] = set()

    def of(self, name: str) -> Mapping[str, str]:
        """What is set of the recipe `name`."""
        return self._wanted.get(name, {})

    def called(self, package: Package) -> None:
        """Notes that the package's recipe is called: what is set of it counts, but for what the package sets itself."""
        stands = dict(package.options)
        self._heeded.update((package.name, option) for option in self.of(package.name) if option not in stands)

    def check(self, called: Collection[str]) -> None:
        """Raises RecipeError (`unused-setting`, `overruled-setting`) for what is set and came to nothing, given all
        recipes called."""
        for name, options in self._wanted.items():
            for option, value in options.items():
                if (name, option) not in self._heeded:
                    raise _unused(name, option, value, called)


def _unused(name: str, option: str, value: str, called: Collection[str]) -> RecipeError:
    if name in called:
        reason, cause = "overruled-setting", f"what is made of {name} here sets {option} by itself"
        hint = f"Set it of what asks for {name}, or realise {name} by itself."
    else:
        near = difflib.get_close_matches(name, list(called), n=4, cutoff=0.6)
        reason, cause = "unused-setting", f"{name} is no part of what is asked for"
        hint = f"Did you mean {' or '.join(near)}?" if near else "`forge show TARGET` shows what a target is made of."
    return RecipeError(f"set {name}:{option}={value}: {cause}", detail=hint, reason=reason)


def validate_option(recipe: Recipe, name: str, value: OptionValue, file: Path) -> Any:
    """`value` as the option's annotation wants it; raises RecipeError (`no-such-option`, `bad-option`)."""
    if name not in recipe.options:
        known = ", ".join(sorted(recipe.options)) or "none"
        raise RecipeError(
            f"set option {name} of {recipe.name}: it does not exist",
            detail=f"Options: {known}.",
            reason="no-such-option",
        )
    default = recipe.options[name]
    annotation = recipe.function.__annotations__.get(name, type(default))
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    # pydantic takes longer to import than a small graph takes to evaluate.
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise RecipeError(
            f"set option {name} of {recipe.name} to {value!r}: {error.errors()[0]['msg']}",
            detail=f"The default is {default!r}.",
            reason="bad-option",
            file=file,
        ) from error
