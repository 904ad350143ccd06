"""Errors in recipes, with the file and line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmojo_forge.errors import ForgeError


class RecipeError(ForgeError):
    """A recipe that cannot be loaded or evaluated. `file` and `line` say where, if that is known.

    `asked_by` lists the callers as (file, line), the nearest first: modules of the library, then the recipe.
    """

    def __init__(
        self, message: str, *, detail: str = "", reason: str, file: Path | str | None = None, line: int | None = None
    ) -> None:
        super().__init__(f"{_place(file, line)}{message}", detail=detail, reason=reason)
        self.file = file
        self.line = line
        self.asked_by: tuple[tuple[Path, int | None], ...] = ()

    def found_at(self, file: Path, line: int | None) -> None:
        """Set file and line, and put them before the message, unless they are set already."""
        if self.file is None:
            self.file, self.line = file, line
            self.message = f"{_place(file, line)}{self.message}"

    def came_from(self, places: Iterable[tuple[Path, int | None]]) -> None:
        """Add the callers to the message, the nearest first, unless they are set already."""
        asked_by = tuple((file, line) for file, line in places if str(file) != str(self.file))
        if asked_by and not self.asked_by:
            self.asked_by = asked_by
            self.message += "".join(f"\n  asked for by {_place(file, line)}".rstrip(": ") for file, line in asked_by)


def _place(file: Path | str | None, line: int | None) -> str:
    return f"{file}:{line}: " if file and line else f"{file}: " if file else ""


class ImpureRecipe(RecipeError):
    """A recipe that uses something other than its arguments, such as a file or the clock."""
