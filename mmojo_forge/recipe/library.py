"""The library: modules in `recipes/lib` that recipes share, behind the same fence as recipes.

A recipe or a module imports from it by `from recipes.lib.MODULE import NAME`. Three rules:

1. forge checks and runs a module's source like a recipe's (`fence.py`), so a module depends on nothing outside it;
2. modules keep no state: each recipe file gets its own copy, run once and frozen before the recipe sees it;
3. modules may import each other, but not in a cycle.

`Files` in a module means a file in the library's folder, not beside the recipe that calls it. A module exports only
names that it defines itself. Otherwise a recipe could import the library's `Files` and get files from the wrong folder.
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
    """A module's compiled source, and the names that it imports and so does not export."""

    file: Path
    code: CodeType
    imported: frozenset[str]


class Library:
    """The modules of one workspace. Each file is read once, even if several recipes import it."""

    def __init__(self, workspace: Path) -> None:
        self.folder = workspace / FOLDER
        self._modules: dict[str, _Module] = {}

    def files_read(self) -> list[Path]:
        """The modules read so far, and the folder if any module was read."""
        return [self.folder, *(module.file for module in self._modules.values())] if self._modules else []

    def imports_of(self, recipe: Path) -> Imports:
        """The recipe file's own copies of the modules."""
        return Imports(self, recipe)

    def module(self, name: str, asking: Path, line: int) -> _Module:
        """The module that the file `asking` imports in `line`; raises RecipeError (`no-such-module`, …)."""
        if name not in self._modules:
            file = self.folder / f"{name}.py"
            # A link could lead out of the workspace. The evaluation cache would not notice a change there.
            if not file.is_file() or file.resolve() != self.folder.resolve() / file.name:
                raise _unknown_module(name, self.folder, asking, line)
            source = read(file)
            code = fence.compile_recipe(source, file, _LIB_API)
            self._modules[name] = _Module(file, code, _imported_names(ast.parse(source)))
        return self._modules[name]


class Imports:
    """The modules that one recipe file imports. No other file sees these copies."""

    def __init__(self, library: Library, recipe: Path) -> None:
        self._library = library
        self._recipe = recipe
        self._exports: dict[str, Mapping[str, object]] = {}
        self._running: list[str] = []

    def answer(self, module: str, names: tuple[str, ...], line: int) -> Mapping[str, object]:
        """The module's exports, with `names`; raises RecipeError (`no-such-module`, `no-such-name`, `lib-cycle`)."""
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
                f"import {fence.LIB}.{name}: import cycle {' → '.join(path)}",
                reason="lib-cycle",
                file=asking,
                line=line,
            )
        module = self._library.module(name, asking, line)
        names = fence.recipe_globals(module.file, _LIB_API, self.answer)
        self._running.append(name)
        try:
            exec(module.code, names)
        finally:
            self._running.pop()
        freeze(names)
        exports = {key: value for key, value in names.items() if not key.startswith("_") and key not in module.imported}
        return MappingProxyType(exports)


def read(file: Path) -> bytes:
    """The bytes of a recipe file or a module; raises RecipeError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise RecipeError(f"load recipe: {error.strerror}", reason="recipe-unreadable", file=file) from error


def freeze(names: dict[str, Any]) -> None:
    """Make the dicts and lists among a file's globals immutable, in place.

    A recipe that changed them would make the result depend on the order of evaluation.
    """
    for name, value in names.items():
        if isinstance(value, dict) and name != "__builtins__":
            names[name] = MappingProxyType(value)
        elif isinstance(value, list):
            names[name] = tuple(value)


def places_in(trace: TracebackType | None, recipe: Path, library: Path) -> list[tuple[Path, int | None]]:
    """The (file, line) pairs at which a traceback passed through the recipe and the library, the innermost first.

    Each file occurs once, with its innermost line.
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
        detail=_hint(name, known, f"Modules in {FOLDER}"),
        reason="no-such-module",
        file=asking,
        line=line,
    )


def _unknown_name(module: str, name: str, exports: Mapping[str, object], asking: Path, line: int) -> RecipeError:
    return RecipeError(
        f"import {fence.LIB}.{module}: the module does not define {name}",
        detail=_hint(name, sorted(exports), "The module defines"),
        reason="no-such-name",
        file=asking,
        line=line,
    )


def _hint(name: str, known: list[str], lead: str) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"{lead}: {', '.join(known) or 'nothing'}."
