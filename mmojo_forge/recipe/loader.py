"""Finds and runs recipe files: `recipes/<package>/recipe.py` and `toolchains/<package>/recipe.py`.

A file is loaded when one of its targets is first asked for. `recipes/lib` is not a package; it holds the modules that
recipes share (library.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmojo_forge.errors import ForgeError
from mmojo_forge.recipe import fence, library
from mmojo_forge.recipe.api import GROUPS, BadOption, OptionValue, Recipe
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.library import Library

FOLDERS = ("recipes", "toolchains")
FILE = "recipe.py"


class Loader:
    """Finds recipes by target name. A folder defines only the package of the same name and its variants."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.library = Library(workspace)
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
        """The recipe files and library modules read so far, and the library's folder if any module was read."""
        return [*(self._files[package] for package in self._recipes), *self.library.files_read()]

    def find(self, target: str) -> tuple[Recipe, Mapping[str, OptionValue]]:
        """The target's recipe and the options it presets; raises RecipeError (`unknown-target`) with similar names."""
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
            self._recipes[package] = _load(package, self._files[package], self.library)
        return self._recipes[package]


def _package_of(target: str) -> str:
    return target.partition(".")[0]


def _recipe_files(workspace: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in FOLDERS:
        for file in sorted((workspace / folder).glob(f"*/{FILE}")):
            package = file.parent.name
            if f"{folder}/{package}" == library.FOLDER:
                continue
            if package in files:
                raise RecipeError(
                    f"load recipe {package}: the package is also defined in {files[package]}",
                    reason="recipe-twice",
                    file=file,
                )
            files[package] = file
    return files


def _load(package: str, file: Path, lib: Library) -> dict[str, tuple[Recipe, Mapping[str, OptionValue]]]:
    names = run_recipe_file(file, lib)
    recipes: dict[str, tuple[Recipe, Mapping[str, OptionValue]]] = {}
    for value in names.values():
        if isinstance(value, Recipe):
            _declare(recipes, package, value, file)
    if not recipes:
        raise RecipeError("load recipe: the file has no @recipe function", reason="recipe-empty", file=file)
    return recipes


def _declare(
    recipes: dict[str, tuple[Recipe, Mapping[str, OptionValue]]], package: str, recipe: Recipe, file: Path
) -> None:
    targets = {recipe.name: {}, **{f"{package}.{variant}": preset for variant, preset in recipe.variants.items()}}
    _check_listing(recipe, targets, file)
    for target, preset in targets.items():
        if _package_of(target) != package:
            raise RecipeError(
                f"load recipe: {target} must be defined in a folder called {_package_of(target)}",
                reason="recipe-misplaced",
                file=file,
            )
        if target in recipes:
            raise RecipeError(f"load recipe: {target} is defined twice", reason="recipe-twice", file=file)
        recipes[target] = (recipe, preset)


def _check_listing(recipe: Recipe, targets: Iterable[str], file: Path) -> None:
    """Raise RecipeError unless `group` is known and `ran` names only the recipe's own targets (for `forge list`)."""
    if recipe.group not in GROUPS:
        raise RecipeError(
            f"load recipe {recipe.name}: unknown group {recipe.group!r}",
            detail=f"Groups: {', '.join(GROUPS)}.",
            reason="recipe-bad-group",
            file=file,
        )
    for target in recipe.ran:
        if target not in targets:
            raise RecipeError(
                f"load recipe {recipe.name}: `ran` names {target}, which the recipe does not define",
                detail=f"Its targets: {', '.join(targets)}.",
                reason="recipe-ran-unknown",
                file=file,
            )


def run_recipe_file(file: Path, lib: Library | None = None) -> dict[str, Any]:
    """The frozen globals of a recipe file after running it inside the fence. `lib` is the library of its workspace."""
    lib = lib or Library(file.parents[2])
    source = library.read(file)
    names = fence.recipe_globals(file, library.API, lib.imports_of(file).answer)
    try:
        exec(fence.compile_recipe(source, file, library.API), names)
    except ForgeError as error:
        locate(error, error, file, lib.folder)
        raise
    except Exception as error:
        raise failure("load recipe", error, file, lib.folder) from error
    library.freeze(names)
    return names


def failure(operation: str, error: Exception, file: Path, lib: Path) -> RecipeError:
    """The error for an exception that a recipe raised, with its file and line; `lib` is the library's folder."""
    if isinstance(error, BadOption):
        found = RecipeError(f"{operation}: {error}", detail=error.hint, reason="bad-option")
    else:
        found = RecipeError(f"{operation}: {type(error).__name__}: {error}", reason="recipe-failed")
    locate(found, error, file, lib)
    return found


def locate(found: ForgeError, raised: Exception, file: Path, lib: Path) -> None:
    """Add to `found` where `raised` came from: file and line, and the callers if that was a module of the library."""
    if isinstance(found, RecipeError):
        places = library.places_in(raised.__traceback__, file, lib)
        found.found_at(*(places[0] if places else (file, None)))
        found.came_from(places)


def _unknown(target: str, known: Iterable[str]) -> RecipeError:
    near = difflib.get_close_matches(target, list(known), n=4, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`forge list` shows all targets."
    return RecipeError(f"unknown target {target!r}", detail=hint, reason="unknown-target")
