"""What is wrong with a recipe, with its file and line."""

from __future__ import annotations

from pathlib import Path

from mmojo_forge.errors import ForgeError


class RecipeError(ForgeError):
    """A recipe that cannot be loaded or evaluated. `file` and `line` say where, if that is known."""

    def __init__(
        self, message: str, *, detail: str = "", reason: str, file: Path | str | None = None, line: int | None = None
    ) -> None:
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{place}{message}", detail=detail, reason=reason)
        self.file = file
        self.line = line


class ImpureRecipe(RecipeError):
    """A recipe that reaches for what is not its argument."""
