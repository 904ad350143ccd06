"""The fence around recipes and library modules: which syntax they may use, and which names they run with.

The fence makes recipes pure. Python cannot be fenced at run time alone, so forge first checks the syntax tree:

1. Imports are `from MODULE import NAME` with both on a short list, or `from recipes.lib.MODULE import NAME`, which
   recipe/library.py answers. Recipes never get a module object: it would lead to `sys.modules`.
2. Names and attributes do not start with an underscore. Attributes that lead to frames or code are refused, and so is
   `.format`: a field like `"{0.x}"` reads attributes at run time, past this check.
3. Sets are refused, because their order depends on the hash seed; so are `async`, `global` and `nonlocal`.

Then forge runs the source with builtins that depend on nothing but their arguments. `open`, `print`, `eval`, `id`,
`hash` … are replaced by functions that raise ImpureRecipe with the recipe's line.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from mmojo_forge.recipe.errors import ImpureRecipe, RecipeError

IMPORTABLE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "__future__": ("annotations",),
        "collections": ("ChainMap", "Counter", "OrderedDict", "defaultdict", "deque"),
        "collections.abc": ("Callable", "Iterable", "Iterator", "Mapping", "Sequence"),
        "dataclasses": ("dataclass", "field", "replace"),
        "enum": ("Enum", "IntEnum", "StrEnum"),
        "functools": ("partial", "reduce"),
        "itertools": ("accumulate", "chain", "count", "groupby", "islice", "product", "repeat", "zip_longest"),
        "json": ("dumps", "loads"),
        "math": ("ceil", "floor", "gcd", "lcm", "log2", "prod"),
        "textwrap": ("dedent", "indent"),
        "typing": ("Annotated", "Any", "Final", "Literal", "NamedTuple"),
    }
)
API_MODULE = "mmojo_forge.recipe"
LIB = "recipes.lib"
_LIB_MODULE = re.compile(rf"{re.escape(LIB)}\.[a-z][a-z0-9_]*")

_PURE_BUILTINS = (
    "ArithmeticError AssertionError AttributeError Exception IndexError KeyError LookupError NotImplementedError "
    "RuntimeError StopIteration TypeError ValueError ZeroDivisionError abs all any ascii bin bool bytes callable chr "
    "classmethod complex dict divmod enumerate filter float int isinstance issubclass iter len list map max min next "
    "object oct ord pow property range repr reversed round slice sorted staticmethod str sum super tuple zip hex "
    "Ellipsis NotImplemented"
).split()
_REFUSED = MappingProxyType(
    {
        "open": "files",
        "input": "the terminal",
        "print": "the terminal",
        "eval": "code made of text",
        "exec": "code made of text",
        "compile": "code made of text",
        "breakpoint": "the debugger",
        "globals": "the interpreter",
        "locals": "the interpreter",
        "vars": "the interpreter",
        "dir": "the interpreter",
        "getattr": "the interpreter",
        "setattr": "the interpreter",
        "delattr": "the interpreter",
        "hasattr": "the interpreter",
        "type": "the interpreter",
        "memoryview": "the interpreter",
        "id": "memory addresses",
        "hash": "the hash seed",
        "set": "the hash seed (the order of a set depends on it: use a tuple or a dict)",
        "frozenset": "the hash seed (the order of a set depends on it: use a tuple or a dict)",
    }
)
_REFUSED_ATTRIBUTES = frozenset(
    "format format_map gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_origin ag_frame ag_code tb_frame tb_next "
    "f_back f_builtins f_code f_globals f_locals f_trace mro".split()
)
_REFUSED_SYNTAX: Mapping[type[ast.AST], str] = MappingProxyType(
    {
        ast.Set: "a set display: its order depends on the hash seed, use a tuple or a dict",
        ast.SetComp: "a set comprehension: its order depends on the hash seed, use a dict",
        ast.AsyncFunctionDef: "async code",
        ast.Await: "async code",
        ast.Global: "global state",
        ast.Nonlocal: "shared state",
    }
)
MAX_SOURCE_BYTES = 1 << 20  # a larger file could exhaust memory in the parser

LibImport = Callable[[str, tuple[str, ...], int], Mapping[str, object]]
"""Answers `from recipes.lib.MODULE import NAME…`: from the module, the names and the line to the module's exports."""


def compile_recipe(source: bytes, file: Path, api: Collection[str]) -> Any:
    """The code object of a recipe file; raises RecipeError, or ImpureRecipe for source that breaks a rule of the fence.

    `api` has the names that recipes may import from `mmojo_forge.recipe`.
    """
    if len(source) > MAX_SOURCE_BYTES:
        raise RecipeError("load recipe: the file is larger than 1 MiB", reason="recipe-too-big", file=file)
    try:
        tree = ast.parse(source, filename=str(file))
        _Fence(file, api).visit(tree)
        return compile(tree, str(file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RecipeError(f"load recipe: {text}", reason="recipe-syntax", file=file, line=line) from error


def recipe_globals(file: Path, api: Mapping[str, object], lib: LibImport) -> dict[str, Any]:
    """The globals that a recipe file starts with: the fenced builtins, and an import that gives only listed names."""
    names: dict[str, Any] = {name: getattr(builtins, name) for name in _PURE_BUILTINS}
    names.update({name: _refusal(name, what, file) for name, what in _REFUSED.items()})
    # Class statements call __build_class__. None, True and False are keywords and need no entry.
    names["__build_class__"] = builtins.__build_class__
    names["__import__"] = _importer(api, lib)
    return {"__builtins__": names, "__name__": f"recipe:{file.parent.name}"}


class _Fence(ast.NodeVisitor):
    """Raises ImpureRecipe for syntax that breaks one of the module's three rules."""

    def __init__(self, file: Path, api: Collection[str]) -> None:
        self.file = file
        self.importable: Mapping[str, Collection[str]] = {**IMPORTABLE, API_MODULE: api}

    def visit(self, node: ast.AST) -> None:
        what = _REFUSED_SYNTAX.get(type(node))
        if what:
            self.refuse(node, what)
        super().visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.refuse(node, f"import {node.names[0].name} (use `from MODULE import NAME` with a listed module)")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        in_lib = _LIB_MODULE.fullmatch(module) is not None
        if node.level or (not in_lib and module not in self.importable):
            hint = f" (use `from {LIB}.MODULE import NAME`)" if f"{module}.".startswith(f"{LIB}.") else ""
            self.refuse(node, f"import from {'.' * node.level}{module}{hint}")
        for alias in node.names:
            # The names of a library module are known only after running it. `Imports.answer` checks them.
            if alias.name == "*" or not (in_lib or alias.name in self.importable[module]):
                self.refuse(node, f"import of {alias.name} from {module}")
            self._check_name(node, alias.name)
            self._check_name(node, alias.asname or "")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _REFUSED_ATTRIBUTES:
            self.refuse(node, f".{node.attr}" + (" (use an f-string)" if node.attr.startswith("format") else ""))
        self._check_name(node, node.attr)
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            self._check_name(node, name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id != "_":
            self._check_name(node, node.id if node.id.startswith("__") else "")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._check_name(node, node.name if node.name.startswith("__") else "")
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if node.keywords:
            self.refuse(node, "a class with a metaclass or class arguments")
        self.generic_visit(node)

    def _check_name(self, node: ast.AST, name: str) -> None:
        if name.startswith("_"):
            self.refuse(node, f"the name {name}")

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        raise ImpureRecipe(
            f"load recipe: {what} is not allowed",
            detail="A recipe may use only its parameters: no files, clock, environment, network or randomness. "
            "Declare sources and inputs instead; a `host` parameter gives facts of the machine.",
            reason="recipe-impure",
            file=self.file,
            line=getattr(node, "lineno", None),
        )


def _refusal(name: str, what: str, file: Path) -> Callable[..., NoReturn]:
    def refused(*_args: object, **_keywords: object) -> NoReturn:
        line = sys._getframe(1).f_lineno  # frame 1 is the recipe that calls this
        raise ImpureRecipe(
            f"evaluate recipe: {name}() is not allowed, because it uses {what}",
            detail="A recipe may use only its parameters. Declare sources and inputs instead.",
            reason="recipe-impure",
            file=file,
            line=line,
        )

    return refused


def _importer(api: Mapping[str, object], lib: LibImport) -> Callable[..., object]:
    """An `__import__` for imports that the syntax check has allowed."""

    class Names:
        """Stands in for a module, so that a recipe never gets a module object."""

    def import_names(
        module: str, _globals: object = None, _locals: object = None, names: tuple[str, ...] = (), _level: int = 0
    ) -> object:
        found = Names()
        if module.startswith(f"{LIB}."):
            source = lib(module.removeprefix(f"{LIB}."), names, sys._getframe(1).f_lineno)
        else:
            source = api if module == API_MODULE else vars(__import__(module, fromlist=names))
        for name in names:
            if name in source:
                setattr(found, name, source[name])
        return found

    return import_names
