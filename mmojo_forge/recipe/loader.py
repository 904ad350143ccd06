"""Recipe files: `recipes/<package>/recipe.py` and `toolchains/<package>/recipe.py`, loaded when first asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import mmojo_forge.recipe as recipe_api
from mmojo_forge.errors import ForgeError
from mmojo_forge.recipe import fence
from mmojo_forge.recipe.api import GROUPS, OptionValue, Recipe
from mmojo_forge.recipe.errors import RecipeError

FOLDERS = ("recipes", "toolchains")
FILE = "recipe.py"


class Loader:
    """Finds recipes by target name. A folder defines the package of its name and that package's variants only."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._files = _recipe_files(workspace)
        self._recipes: dict[str, dict[str, tuple[Recipe, Mapping[str, OptionValue]]]] = {}

    def packages(self) -> list[str]:
        """The names of all packages, sorted."""
        return sorted(self._files)

    def targets(self) -> list[str]:
        """The names of all targets, sorted; loads every recipe file."""
        return sorted(target for package in self._files for target in self._package(package))

    def folder(self, target: str) -> Path:
        """The folder of the target's recipe."""
        return self._files[_package_of(target)].parent

    def file(self, target: str) -> Path:
        """The file that defines the target."""
        return self._files[_package_of(target)]

    def loaded_files(self) -> list[Path]:
        """The files that were read so far."""
        return [self._files[package] for package in self._recipes]

    def find(self, target: str) -> tuple[Recipe, Mapping[str, OptionValue]]:
        """The target's recipe and the options it presets; raises RecipeError (`unknown-target`) with near names."""
        package = _package_of(target)
        if package in self._files:
            found = self._package(package).get(target)
            if found:
                return found
        raise _unknown(target, self._known_names(package))

    def _known_names(self, package: str) -> Iterable[str]:
        return self._package(package) if package in self._files else self.targets()

    def _package(self, package: str) -> dict[str, tuple[Recipe, Mapping[str, OptionValue]]]:
        if package not in self._recipes:
            self._recipes[package] = _load(package, self._files[package])
        return self._recipes[package]


def _package_of(target: str) -> str:
    return target.partition(".")[0]


def _recipe_files(workspace: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in FOLDERS:
        for file in sorted((workspace / folder).glob(f"*/{FILE}")):
            package = file.parent.name
            if package in files:
                raise RecipeError(
                    f"load recipe {package}: defined twice, also in {files[package]}", reason="recipe-twice", file=file
                )
            files[package] = file
    return files


def _load(package: str, file: Path) -> dict[str, tuple[Recipe, Mapping[str, OptionValue]]]:
    names = run_recipe_file(file)
    recipes: dict[str, tuple[Recipe, Mapping[str, OptionValue]]] = {}
    for value in names.values():
        if isinstance(value, Recipe):
            _declare(recipes, package, value, file)
    if not recipes:
        raise RecipeError("load recipe: no @recipe function in it", reason="recipe-empty", file=file)
    return recipes


def _declare(
    recipes: dict[str, tuple[Recipe, Mapping[str, OptionValue]]], package: str, recipe: Recipe, file: Path
) -> None:
    targets = {recipe.name: {}, **{f"{package}.{variant}": preset for variant, preset in recipe.variants.items()}}
    _check_told(recipe, targets, file)
    for target, preset in targets.items():
        if _package_of(target) != package:
            raise RecipeError(
                f"load recipe: {target} belongs in a folder called {_package_of(target)}",
                reason="recipe-misplaced",
                file=file,
            )
        if target in recipes:
            raise RecipeError(f"load recipe: {target} is defined twice", reason="recipe-twice", file=file)
        recipes[target] = (recipe, preset)


def _check_told(recipe: Recipe, targets: Iterable[str], file: Path) -> None:
    """What it says for `forge list` is about targets of its own."""
    if recipe.group not in GROUPS:
        raise RecipeError(
            f"load recipe {recipe.name}: there is no group {recipe.group}",
            detail=f"Groups: {', '.join(GROUPS)}.",
            reason="recipe-bad-group",
            file=file,
        )
    for target in recipe.ran:
        if target not in targets:
            raise RecipeError(
                f"load recipe {recipe.name}: it says where {target} has been run, which is none of its targets",
                detail=f"Its targets: {', '.join(targets)}.",
                reason="recipe-ran-unknown",
                file=file,
            )


def run_recipe_file(file: Path) -> dict[str, Any]:
    """The global names that a recipe file defines, frozen, after it was run inside the fence."""
    try:
        source = file.read_bytes()
    except OSError as error:
        raise RecipeError(f"load recipe: {error.strerror}", reason="recipe-unreadable", file=file) from error
    api = {name: getattr(recipe_api, name) for name in recipe_api.__all__}
    names = fence.recipe_globals(file, api)
    try:
        exec(fence.compile_recipe(source, file, api), names)
    except ForgeError:
        raise
    except Exception as error:
        raise failure("load recipe", error, file) from error
    for name, value in names.items():
        # Evaluation must not depend on its own order, so a recipe file keeps no state.
        if isinstance(value, dict) and name != "__builtins__":
            names[name] = MappingProxyType(value)
        elif isinstance(value, list):
            names[name] = tuple(value)
    return names


def failure(operation: str, error: Exception, file: Path) -> RecipeError:
    """The error of a recipe that raised, with the line in the recipe's own file."""
    line = _line_in(file, error.__traceback__)
    if isinstance(error, recipe_api.BadOption):
        return RecipeError(f"{operation}: {error}", detail=error.hint, reason="bad-option", file=file, line=line)
    return RecipeError(f"{operation}: {type(error).__name__}: {error}", reason="recipe-failed", file=file, line=line)


def _line_in(file: Path, trace: TracebackType | None) -> int | None:
    """The innermost line of the file in a traceback."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _unknown(target: str, known: Iterable[str]) -> RecipeError:
    near = difflib.get_close_matches(target, list(known), n=4, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`forge list` shows all targets."
    return RecipeError(f"find target {target}: there is none", detail=hint, reason="unknown-target")
