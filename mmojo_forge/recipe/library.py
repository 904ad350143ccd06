"""The library: modules of functions in `recipes/lib` that recipes share, behind the same fence.

A recipe, or a module of the library, says `from recipes.lib.MODULE import NAME`. What holds for recipes holds here:

1. the source is checked and run like a recipe's (`fence.py`), so that a module is a function of nothing;
2. a module has no state that lasts: each recipe file gets modules of its own, run once and frozen before it sees them;
3. modules import each other as they like, but not in a circle.

`Files` in a module means what lies in the library's folder, and not beside the recipe that calls it. A module gives
away what it defines itself, and nothing that it imported: otherwise that would hold for the recipe's own `Files`.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, MappingProxyType, TracebackType
from typing import Any

import mmojo_forge.recipe as recipe_api
from mmojo_forge.recipe import fence
from mmojo_forge.recipe.api import LibFiles
from mmojo_forge.recipe.errors import RecipeError

FOLDER = "recipes/lib"
API: Mapping[str, object] = MappingProxyType({name: getattr(recipe_api, name) for name in recipe_api.__all__})
_LIB_API: Mapping[str, object] = MappingProxyType({**API, "Files": LibFiles})


@dataclass(frozen=True, slots=True)
class _Module:
    """A module's compiled source, and the names that it only imports."""

    file: Path
    code: CodeType
    imported: frozenset[str]


class Library:
    """The modules of one workspace. Each file is read once, however many recipes import it."""

    def __init__(self, workspace: Path) -> None:
        self.folder = workspace / FOLDER
        self._modules: dict[str, _Module] = {}

    def files_read(self) -> list[Path]:
        """The modules that were read so far, and the folder if there were any."""
        return [self.folder, *(module.file for module in self._modules.values())] if self._modules else []

    def imports_of(self, recipe: Path) -> Imports:
        """The modules as the recipe file imports them."""
        return Imports(self, recipe)

    def module(self, name: str, asking: Path, line: int) -> _Module:
        """The module that the file `asking` imports in `line`; raises RecipeError (`no-such-module`, …)."""
        if name not in self._modules:
            file = self.folder / f"{name}.py"
            # A link could lead out of the workspace, where no stamp of ours sees a change.
            if not file.is_file() or file.resolve() != self.folder.resolve() / file.name:
                raise _unknown_module(name, self.folder, asking, line)
            source = read(file)
            code = fence.compile_recipe(source, file, _LIB_API)
            self._modules[name] = _Module(file, code, _imported_names(ast.parse(source)))
        return self._modules[name]


class Imports:
    """What one recipe file has imported from the library: modules that no other file sees."""

    def __init__(self, library: Library, recipe: Path) -> None:
        self._library = library
        self._recipe = recipe
        self._exports: dict[str, Mapping[str, object]] = {}
        self._running: list[str] = []

    def answer(self, module: str, names: tuple[str, ...], line: int) -> Mapping[str, object]:
        """What the module gives away; raises RecipeError (`no-such-module`, `no-such-name`, `lib-cycle`)."""
        asking = self._library.folder / f"{self._running[-1]}.py" if self._running else self._recipe
        exports = self._exports.get(module)
        if exports is None:
            exports = self._exports[module] = self._run(module, asking, line)
        for name in names:
            if name not in exports:
                raise _unknown_name(module, name, exports, asking, line)
        return exports

    def _run(self, name: str, asking: Path, line: int) -> Mapping[str, object]:
        if name in self._running:
            path = [*self._running[self._running.index(name) :], name]
            raise RecipeError(
                f"import {fence.LIB}.{name}: cycle {' → '.join(path)}", reason="lib-cycle", file=asking, line=line
            )
        module = self._library.module(name, asking, line)
        names = fence.recipe_globals(module.file, _LIB_API, self.answer)
        self._running.append(name)
        try:
            exec(module.code, names)
        finally:
            self._running.pop()
        freeze(names)
        given = {key: value for key, value in names.items() if not key.startswith("_") and key not in module.imported}
        return MappingProxyType(given)


def read(file: Path) -> bytes:
    """The bytes of a recipe file or a module; raises RecipeError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise RecipeError(f"load recipe: {error.strerror}", reason="recipe-unreadable", file=file) from error


def freeze(names: dict[str, Any]) -> None:
    """Makes the tables and lists among a file's global names immutable: evaluation must not depend on its own order,
    so no file keeps state."""
    for name, value in names.items():
        if isinstance(value, dict) and name != "__builtins__":
            names[name] = MappingProxyType(value)
        elif isinstance(value, list):
            names[name] = tuple(value)


def places_in(trace: TracebackType | None, recipe: Path, library: Path) -> list[tuple[Path, int | None]]:
    """Where a traceback passed through the recipe and through modules of the library, the innermost first.

    Of each file the innermost line.
    """
    lines: dict[Path, int | None] = {}
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file == recipe or file.parent == library:
            lines.pop(file, None)
            lines[file] = trace.tb_lineno
        trace = trace.tb_next
    return list(reversed(lines.items()))


def _imported_names(tree: ast.Module) -> frozenset[str]:
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return frozenset(alias.asname or alias.name for node in imports for alias in node.names)


def _unknown_module(name: str, folder: Path, asking: Path, line: int) -> RecipeError:
    known = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    return RecipeError(
        f"import {fence.LIB}.{name}: {FOLDER} has no file {name}.py",
        detail=_hint(name, known, "Modules there"),
        reason="no-such-module",
        file=asking,
        line=line,
    )


def _unknown_name(module: str, name: str, exports: Mapping[str, object], asking: Path, line: int) -> RecipeError:
    return RecipeError(
        f"import {fence.LIB}.{module}: it defines no {name}",
        detail=_hint(name, sorted(exports), "It defines"),
        reason="no-such-name",
        file=asking,
        line=line,
    )


def _hint(name: str, known: list[str], lead: str) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"{lead}: {', '.join(known) or 'nothing'}."
