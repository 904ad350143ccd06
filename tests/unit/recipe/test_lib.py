"""The library: what recipes share in `recipes/lib`, behind the same fence as they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mmojo_forge.engine.realise.run import _files_read
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.derivation import Derivation, LocalSource
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import ImpureRecipe, RecipeError
from mmojo_forge.recipe.loader import Loader

HEAD = "from mmojo_forge.recipe import Files, Package, Spec, Url, recipe\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "forge.lock").write_text("")
    (tmp_path / "recipes" / "lib").mkdir(parents=True)
    return Workspace(tmp_path, tmp_path / "store")


def module(workspace: Workspace, name: str, text: str) -> Path:
    file = workspace.root / "recipes" / "lib" / f"{name}.py"
    file.write_text(text)
    return file


def recipe(workspace: Workspace, name: str, imports: str, arguments: str, folder: str = "recipes") -> Path:
    """A recipe whose derivation has these arguments, and an import in its second line."""
    file = workspace.root / folder / name / "recipe.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    spec = f'Spec("{name}", "x", ({arguments},), {{}})'
    file.write_text(f'{HEAD}{imports}\n@recipe("{name}")\ndef made():\n    return {spec}\n')
    return file


def instantiate(workspace: Workspace, target: str) -> Derivation:
    node = workspace.evaluator(Lock()).instantiate(Package(target)).node
    assert isinstance(node, Derivation)
    return node


def refused(workspace: Workspace, target: str = "app") -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        instantiate(workspace, target)
    return caught.value


@pytest.mark.parametrize("folder", ["recipes", "toolchains"])
def test_a_recipe_calls_what_a_module_defines(workspace: Workspace, folder: str) -> None:
    module(workspace, "words", 'GREETING = "hello"\ndef greet(name):\n    return f"{GREETING} {name}"\n')
    recipe(workspace, "app", "from recipes.lib.words import GREETING, greet as say", 'GREETING, say("you")', folder)
    assert instantiate(workspace, "app").args == ("hello", "hello you")


def test_modules_import_each_other(workspace: Workspace) -> None:
    module(workspace, "low", "def twice(text):\n    return text * 2\n")
    module(workspace, "high", "from recipes.lib.low import twice\ndef four(text):\n    return twice(twice(text))\n")
    recipe(workspace, "app", "from recipes.lib.high import four", 'four("a")')
    assert instantiate(workspace, "app").args == ("aaaa",)


def test_the_folder_is_no_package_even_if_it_has_a_recipe(workspace: Workspace) -> None:
    module(workspace, "recipe", f'{HEAD}@recipe("lib")\ndef f():\n    return Spec("lib", "x", (), {{}})\n')
    recipe(workspace, "app", "", '"a"')
    assert Loader(workspace.root).packages() == ["app"]
    assert Loader(workspace.root).targets() == ["app"]
    assert refused(workspace, "lib").reason == "unknown-target"


def test_a_module_may_make_recipes(workspace: Workspace) -> None:
    text = """
def echo(name):
    @recipe(name, variants={"b": {"of": "b"}})
    def function(*, of: str = "a"):
        return Spec("echo", "x", (of,), {})
    return function
"""
    module(workspace, "echo", f"{HEAD}{text}")
    file = recipe(workspace, "app", "from recipes.lib.echo import echo", "")
    file.write_text('from recipes.lib.echo import echo\napp = echo("app")\n')
    assert instantiate(workspace, "app").args == ("a",)
    assert instantiate(workspace, "app.b").args == ("b",)


# Files


def test_files_of_a_module_lie_beside_it_and_those_of_a_recipe_beside_the_recipe(workspace: Workspace) -> None:
    module(workspace, "patches", f'{HEAD}def ours():\n    return {{"ours": Files("note")}}\n')
    file = recipe(workspace, "app", "", "")
    text = 'Spec("app", "x", (), {"mine": Files("note"), **ours()})'
    file.write_text(
        f'{HEAD}from recipes.lib.patches import ours\n@recipe("app")\ndef f():\n    return {text}\n', encoding="utf-8"
    )
    for folder, content in (("lib", "library"), ("app", "recipe")):
        (workspace.root / "recipes" / folder / "note").write_text(content)
    inputs = instantiate(workspace, "app").inputs
    paths = {name: edge.node.path for name, edge in inputs.items() if isinstance(edge.node, LocalSource)}
    assert paths == {
        "mine": str(workspace.root / "recipes" / "app" / "note"),
        "ours": str(workspace.root / "recipes" / "lib" / "note"),
    }


@pytest.mark.parametrize("path", ["../app/recipe.py", "/etc/passwd", "out/passwd"])
def test_files_of_a_module_do_not_lead_out_of_its_folder(workspace: Workspace, path: str) -> None:
    (workspace.root / "recipes" / "lib" / "out").symlink_to("/etc")
    module(workspace, "bad", f"{HEAD}WANTED = Files({path!r})\n")
    file = recipe(workspace, "app", "", "")
    spec = 'Spec("app", "x", (), {"f": WANTED})'
    file.write_text(f'{HEAD}from recipes.lib.bad import WANTED\n@recipe("app")\ndef made():\n    return {spec}\n')
    assert refused(workspace).reason == "local-files-outside"


def test_what_a_module_only_imported_it_does_not_give_away(workspace: Workspace) -> None:
    module(workspace, "words", f"{HEAD}WORD = 1\n")
    recipe(workspace, "app", "from recipes.lib.words import Files", "1")
    assert refused(workspace).reason == "no-such-name"


# No state


def test_no_recipe_sees_what_another_did_to_a_module(workspace: Workspace) -> None:
    module(workspace, "tables", 'TABLE = {"a": {}}\nLIST = [1]\n')
    imports = "from recipes.lib.tables import LIST, TABLE"
    recipe(workspace, "app", imports, 'str(TABLE["a"].setdefault("seen", len(TABLE["a"])))')
    recipe(workspace, "other", imports, 'str(TABLE["a"].setdefault("seen", 7))')
    evaluator = workspace.evaluator(Lock())
    for target, seen in (("app", "0"), ("other", "7")):
        node = evaluator.instantiate(Package(target)).node
        assert isinstance(node, Derivation)
        assert node.args == (seen,)


@pytest.mark.parametrize("change", ['TABLE.update({"b": 1})', "LIST.append(2)"])
def test_a_modules_tables_are_frozen(workspace: Workspace, change: str) -> None:
    module(workspace, "tables", 'TABLE = {"a": {}}\nLIST = [1]\n')
    recipe(workspace, "app", "from recipes.lib.tables import LIST, TABLE", change)
    assert refused(workspace).reason == "recipe-failed"


# The fence


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import os\n", 1),
        ("from os import path\n", 1),
        ("x = 1\nfrom recipes.lib.other import *\n", 2),
        ("x = ().__class__\n", 1),
        ("def f():\n    return {1, 2}\n", 2),
        ("\nx = open('/etc/passwd')\n", 2),
    ],
)
def test_a_module_is_fenced_in_and_the_error_names_it_and_the_recipe(
    workspace: Workspace, text: str, line: int
) -> None:
    bad = module(workspace, "bad", text)
    asking = recipe(workspace, "app", "from recipes.lib.bad import f", "1")
    error = refused(workspace)
    assert isinstance(error, ImpureRecipe)
    assert (error.file, error.line) == (bad, line)
    assert error.asked_by == ((asking, 2),)
    assert f"{bad}:{line}" in error.message
    assert f"{asking}:2" in error.message


def test_a_syntax_error_names_every_file_that_led_there(workspace: Workspace) -> None:
    bad = module(workspace, "bad", "def f(:\n")
    middle = module(workspace, "middle", "\n\nfrom recipes.lib.bad import f\n")
    asking = recipe(workspace, "app", "from recipes.lib.middle import f", "1")
    error = refused(workspace)
    assert (error.reason, error.file, error.line) == ("recipe-syntax", bad, 1)
    assert error.asked_by == ((middle, 3), (asking, 2))


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("def f():\n    return 1 // 0\n", "recipe-failed", 2),
        ("def f():\n    print(1)\n", "recipe-impure", 2),
        (f'{HEAD}def f():\n    return Url("https://example.org/x", size=1)\n', "source-half-known", 3),
    ],
)
def test_a_function_that_raises_when_a_recipe_calls_it_is_told_with_both_lines(
    workspace: Workspace, text: str, reason: str, line: int
) -> None:
    bad = module(workspace, "bad", text)
    asking = recipe(workspace, "app", "from recipes.lib.bad import f", "f()")
    error = refused(workspace)
    assert (error.reason, error.file, error.line) == (reason, bad, line)
    assert error.asked_by == ((asking, 5),)


def test_a_recipes_own_error_names_the_recipe_alone(workspace: Workspace) -> None:
    asking = recipe(workspace, "app", "", 'Url("https://example.org/x", size=1)')
    error = refused(workspace)
    assert (error.reason, error.file, error.line, error.asked_by) == ("source-half-known", asking, 5, ())


@pytest.mark.parametrize("path", [("a", "a"), ("a", "b", "a"), ("a", "b", "c", "b")])
def test_a_cycle_is_refused_with_the_line_that_closes_it(workspace: Workspace, path: tuple[str, ...]) -> None:
    for name, other in itertools.pairwise(path):
        module(workspace, name, f"\nfrom recipes.lib.{other} import f\n\ndef f(): pass\n")
    recipe(workspace, "app", "from recipes.lib.a import f", "1")
    error = refused(workspace)
    assert (error.reason, error.line) == ("lib-cycle", 2)
    assert error.file == workspace.root / "recipes" / "lib" / f"{path[-2]}.py"
    assert " → ".join(path[path.index(path[-1]) :]) in error.message


# Names and paths


@pytest.mark.parametrize(
    "imports",
    [
        "from recipes.lib import words",
        "from recipes import lib",
        "import recipes.lib.words",
        "from recipes.lib.words import *",
        "from recipes.lib.words import __builtins__",
        "from recipes.lib.words import _private",
        "from recipes.lib.words import greet as _greet",
        "from recipes.lib.__init__ import greet",
        "from recipes.lib._hidden import greet",
        "from recipes.lib.words.more import greet",
        "from recipes.lib.Words import greet",
        "from .lib.words import greet",
        "from recipes.app.recipe import f",
        "from toolchains.lib.words import greet",
        "from lib.words import greet",
    ],
)
def test_an_import_is_of_names_of_a_module_and_of_nothing_else(workspace: Workspace, imports: str) -> None:
    for name in ("words", "_hidden", "__init__", "Words"):
        module(workspace, name, "def greet(): pass\n_private = 1\n")
    file = recipe(workspace, "app", imports, "1")
    error = refused(workspace)
    assert (error.reason, error.file, error.line) == ("recipe-impure", file, 2)


def test_a_module_called_like_one_of_pythons_takes_the_place_of_none(workspace: Workspace) -> None:
    module(workspace, "json", 'def dumps(value):\n    return "ours"\n')
    module(workspace, "os", 'path = "ours"\n')
    recipe(workspace, "app", "from json import dumps; from recipes.lib.os import path; import_ = 1", "dumps([1]), path")
    assert instantiate(workspace, "app").args == ("[1]", "ours")


def test_what_is_not_there_is_told_with_what_is(workspace: Workspace) -> None:
    module(workspace, "words", "def greet(): pass\n")
    file = recipe(workspace, "app", "from recipes.lib.wrods import greet", "1")
    error = refused(workspace)
    assert (error.reason, error.file, error.line) == ("no-such-module", file, 2)
    assert "words" in error.detail
    recipe(workspace, "app", "from recipes.lib.words import gret", "1")
    error = refused(workspace)
    assert (error.reason, error.file, error.line) == ("no-such-name", file, 2)
    assert "greet" in error.detail


@pytest.mark.parametrize("kind", ["link out", "link in", "folder", "nothing"])
def test_a_module_is_a_file_in_the_folder(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    module(workspace, "real", "def f(): pass\n")
    (tmp_path / "elsewhere.py").write_text("def f(): pass\n")
    place = workspace.root / "recipes" / "lib" / "odd.py"
    if kind == "folder":
        place.mkdir()
    elif kind != "nothing":
        place.symlink_to(tmp_path / "elsewhere.py" if kind == "link out" else "real.py")
    recipe(workspace, "app", "from recipes.lib.odd import f", "1")
    assert refused(workspace).reason == "no-such-module"


def test_the_folder_itself_may_be_a_link_as_folders_of_recipes_may(workspace: Workspace, tmp_path: Path) -> None:
    module(workspace, "words", "WORD = 1\n")
    (workspace.root / "recipes" / "lib").rename(tmp_path / "shared")
    (workspace.root / "recipes" / "lib").symlink_to(tmp_path / "shared")
    recipe(workspace, "app", "from recipes.lib.words import WORD", "str(WORD)")
    assert instantiate(workspace, "app").args == ("1",)


def test_a_workspace_without_the_folder_is_one_like_before(workspace: Workspace) -> None:
    (workspace.root / "recipes" / "lib").rmdir()
    recipe(workspace, "app", "", '"a"')
    assert instantiate(workspace, "app").args == ("a",)
    recipe(workspace, "app", "from recipes.lib.words import f", '"a"')
    assert refused(workspace).reason == "no-such-module"


# The evaluation cache


def test_an_evaluation_rests_on_the_modules_it_read_and_on_no_others(workspace: Workspace) -> None:
    low = module(workspace, "low", "def f(): pass\n")
    high = module(workspace, "high", "from recipes.lib.low import f\ndef g(): pass\n")
    unused = module(workspace, "unused", "")
    recipe(workspace, "app", "from recipes.lib.high import g", '"a"')
    evaluator = workspace.evaluator(Lock())
    evaluator.instantiate(Package("app"))
    files = list(_files_read(workspace, evaluator))
    assert {low, high, low.parent} <= {*files}
    assert unused not in files
    recipe(workspace, "app", "", '"a"')
    evaluator = workspace.evaluator(Lock())
    evaluator.instantiate(Package("app"))
    assert not {low, high, low.parent} & {*_files_read(workspace, evaluator)}
