"""The modules in recipes/lib: each loads by itself, says what its functions are for, and stands in the reference."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mmojo_forge.recipe.loader import run_recipe_file

REPOSITORY = Path(__file__).resolve().parents[3]
MODULES = sorted((REPOSITORY / "recipes" / "lib").glob("*.py"))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_a_module_loads_and_tells_what_it_is_for(file: Path) -> None:
    run_recipe_file(file)
    tree = ast.parse(file.read_text())
    documented = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert ast.get_docstring(tree)
    assert [node.name for node in documented if not ast.get_docstring(node)] == []


def test_the_reference_has_every_module() -> None:
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    table = page.partition("## Share code")[2].partition("`zig_build(name")[0]
    assert [file.stem for file in MODULES if f"`{file.stem}`" not in table] == []


def test_the_recipe_in_the_reference_is_the_one_on_file() -> None:
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    shown = page.partition("zlib/recipe.py`:\n\n")[2].partition("\n2. Run")[0]
    lines = [line.removeprefix("        ") for line in shown.rstrip().splitlines()]
    on_file = (REPOSITORY / "recipes" / "zlib" / "recipe.py").read_text()
    shortened = on_file.replace(": the plainest recipe of a package that has a configure script", "")
    assert "\n".join(lines) + "\n" == shortened
