"""What is said of each target: read off recipes and the graph, the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmojo_forge.cli.target import listing
from mmojo_forge.engine.host_facts import HostFacts
from mmojo_forge.engine.query.targets import PLAIN_HOST, TOOLCHAIN, Option, TargetFacts, Tool, survey
from mmojo_forge.engine.session import Session, UserFolders
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.digest import TreeId, blake3_hex
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.loader import Loader
from tests.unit.recipe.test_recipe import instantiate, write

HEAD = """
from typing import Literal
from mmojo_forge.recipe import Package, Pypi, Spec, build, recipe, unpack

"""
TOOLCHAINS = {
    "userland": '@recipe("userland")\ndef f():\n    return Spec("userland", "x", (), {})\n',
    "cc": """
@recipe("cc.tree")
def tree():
    return Spec("cc-tree", "x", (), {})

@recipe("cc")
def cc(userland, *, threads: bool = True):
    return build("cc-4.5.6rc1", userland=userland, inputs={"tree": Package("cc.tree")}, phases={"p": str(threads)})
""",
    "make": '@recipe("make")\ndef f():\n    return Spec("make", "x", (), {})\n',
}
LIBRARY = """
@recipe("base", variants={"arm": {"system": "linux-aarch64"}}, group="library", ran={"base.arm": "on a | board"})
def base(cc, userland, *, system: Literal["linux-x86_64", "linux-aarch64"] = "linux-x86_64", fast: bool = False):
    \"\"\"A library.\"\"\"
    return build("base", userland=userland, inputs={"cc": cc.with_options(threads=False)},
                 phases={"p": system}).containing(cc=()).for_systems(system)
"""
PROGRAM = """
@recipe("app", group="server")
def app(base, make, userland):
    return build("app", userland=userland, phases={"p": "true"},
                 inputs={"base": base, "arm": base.variant("arm"), "make": make}).containing("base", "arm")

@recipe("app.data")
def data(app, userland):
    return build("data", userland=userland, inputs={"app": app}, phases={"p": "true"}).containing()

@recipe("app.alias", group="kit")
def alias(*, level: int = 3, name: str = ""):
    return Package("base.arm")

@recipe("app.native")
def native(host, base, userland):
    host.fact("cpu.features")
    cores = int(host.fact("cpu.cores"))
    return build("native", userland=userland, inputs={"base": base}, phases={"p": str(cores)})

@recipe("app.unpinned", group="module")
def unpinned():
    return unpack("u", Pypi("u", "1", "u-1.whl"))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for name, text in TOOLCHAINS.items():
        file = tmp_path / "toolchains" / name / "recipe.py"
        file.parent.mkdir(parents=True)
        file.write_text(HEAD + text)
    write(tmp_path, "base", HEAD + LIBRARY)
    write(tmp_path, "app", HEAD + PROGRAM)
    (tmp_path / "forge.lock").touch()
    return Workspace.find(tmp_path)


@pytest.fixture
def targets(workspace: Workspace) -> dict[str, TargetFacts]:
    return {target.name: target for target in survey(workspace, Lock())}


def test_every_target_is_there_once_and_toolchains_are_those_of_their_folder(
    workspace: Workspace, targets: dict[str, TargetFacts]
) -> None:
    assert list(targets) == Loader(workspace.root).targets()
    assert {name for name, one in targets.items() if one.group == TOOLCHAIN} == {"userland", "cc", "cc.tree", "make"}
    assert targets["base.arm"].group == targets["base"].group == "library"
    assert targets["app.data"].group == "part"


def test_systems_are_those_said_or_those_of_what_is_inside(targets: dict[str, TargetFacts]) -> None:
    assert targets["base"].systems == ("linux-x86_64",)
    assert targets["app"].systems == ("linux-x86_64", "linux-aarch64")
    assert targets["app.alias"].systems == targets["base.arm"].systems == ("linux-aarch64",)
    assert targets["app.data"].systems == targets["cc"].systems == ()


def test_tools_are_toolchains_of_what_is_inside_the_most_used_first(targets: dict[str, TargetFacts]) -> None:
    compiler, make = Tool("cc", "4.5.6rc1"), Tool("make", "")
    assert targets["base"].tools == (compiler,)
    assert targets["app"].tools == (compiler, make)
    assert targets["app.data"].tools == ()
    assert targets["cc"].tools == ()
    assert (str(compiler), str(make)) == ("cc 4.5.6rc1", "make")


def test_of_a_host_only_the_names_of_facts_are_told(targets: dict[str, TargetFacts]) -> None:
    assert targets["app.native"].host_facts == ("cpu.cores", "cpu.features")
    assert targets["app"].host_facts == ()
    assert set(PLAIN_HOST) == set(HostFacts())


def test_what_cannot_be_instantiated_is_listed_with_the_reason(targets: dict[str, TargetFacts]) -> None:
    assert targets["app.unpinned"].error == "pin-missing"
    assert targets["app.unpinned"].group == "module"
    assert targets["app"].error == ""


def test_options_have_types_choices_and_defaults(targets: dict[str, TargetFacts]) -> None:
    systems = ("linux-x86_64", "linux-aarch64")
    assert targets["base.arm"].options == (
        Option("system", "str", systems, "linux-x86_64"),
        Option("fast", "bool", (), False),
    )
    assert targets["base.arm"].preset == {"system": "linux-aarch64"}
    assert targets["app.alias"].options == (Option("level", "int", (), 3), Option("name", "str", (), ""))


def test_where_it_has_been_run_is_what_the_recipe_says_of_that_target_alone(targets: dict[str, TargetFacts]) -> None:
    assert targets["base.arm"].ran == "on a | board"
    assert targets["base"].ran == targets["app.alias"].ran == ""


def test_what_is_said_for_the_list_changes_no_identity(workspace: Workspace) -> None:
    told = instantiate(workspace.root, "base.arm").node
    assert told.systems == ("linux-aarch64",)
    silent = LIBRARY.replace(".for_systems(system)", "").replace(
        ', group="library", ran={"base.arm": "on a | board"}', ""
    )
    assert silent.count("recipe(") == 1 and "ran" not in silent
    write(workspace.root, "base", HEAD + silent)
    bare = instantiate(workspace.root, "base.arm").node
    assert bare.systems == ()
    trees = {name: TreeId(blake3_hex(name.encode())) for name in told.inputs}
    assert (bare.id, bare.preimage(trees)) == (told.id, told.preimage(trees))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('group="servers"', "recipe-bad-group"),
        ('ran={"base.amr": "on a board"}', "recipe-ran-unknown"),
        ('ran={"app": "on a board"}', "recipe-ran-unknown"),
    ],
)
def test_what_is_said_of_no_target_or_group_is_refused(workspace: Workspace, more: str, reason: str) -> None:
    write(
        workspace.root, "base", f'{HEAD}@recipe("base", {more})\ndef base():\n    return Spec("base", "x", (), {{}})\n'
    )
    with pytest.raises(RecipeError) as caught:
        survey(workspace, Lock())
    assert caught.value.reason == reason
    assert caught.value.file == workspace.root / "recipes/base/recipe.py"


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each line of a table, by the first of them; the tables of options have several of one name."""
    lines = [line for line in page.partition("## Options")[0].splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("| ").replace("\\|", "/").split("|")] for line in lines]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("`"): row for row in cells}


def test_the_page_has_each_target_once_servers_first(targets: dict[str, TargetFacts]) -> None:
    page = listing.page(list(targets.values()))
    found = rows(page)
    assert set(found) == set(targets)
    assert next(iter(found)) == "app"
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Servers", "## The kit", "## Modules", "## Libraries", "## Toolchains", "## Parts", "## Options"),
        "## JSON, schema 1",
    ]
    assert found["base.arm"][1:] == [
        *("linux-aarch64", "reproducible", "cc 4.5.6rc1", "`system=linux-aarch64`, `fast`", "on a / board")
    ]
    assert found["base"][-1] == "not run"
    assert found["app.native"][1] == "host-specific (cpu.cores, cpu.features)"
    assert found["app.unpinned"][2] == "cannot be instantiated (pin-missing)"
    assert "| `base` | `system` | `linux-x86_64`, `linux-aarch64` | `linux-x86_64` |" in page
    assert "| `app.alias` | `name` | text | empty |" in page


def test_a_cell_ends_no_table(targets: dict[str, TargetFacts]) -> None:
    tables = [line for line in listing.page(list(targets.values())).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {5, 7}


def listed(workspace: Workspace, *arguments: str) -> Result:
    folders = UserFolders(workspace.root / "user", workspace.root / "user")
    session = Session({"FORGE_STORE": str(workspace.root / "elsewhere")}, workspace.root, lambda: folders)
    try:
        return CliRunner().invoke(listing.list_, list(arguments), obj=session)
    finally:
        session.close()


def test_the_command_prints_the_page_and_makes_no_store(workspace: Workspace, targets: dict[str, TargetFacts]) -> None:
    assert listed(workspace, "--markdown").stdout == listing.page(list(targets.values()))
    assert not (workspace.root / "elsewhere").exists()


def test_json_has_the_same_facts(workspace: Workspace) -> None:
    document = json.loads(listed(workspace, "--json").stdout)
    assert document["schema"] == 1
    told = {row["target"]: row for row in document["targets"]}
    assert told["base.arm"] == {
        "target": "base.arm",
        "valid": False,
        "label": "reproducible",
        "summary": "A library.",
        "error": "",
        "group": "library",
        "recipe": "base",
        "systems": ["linux-aarch64"],
        "host_facts": [],
        "built_with": [{"name": "cc", "version": "4.5.6rc1"}],
        "preset": {"system": "linux-aarch64"},
        "options": [
            {
                "name": "system",
                "type": "str",
                "choices": ["linux-x86_64", "linux-aarch64"],
                "default": "linux-x86_64",
            },
            {"name": "fast", "type": "bool", "choices": [], "default": False},
        ],
        "ran": "on a | board",
    }
    assert told["app.unpinned"]["error"] == "pin-missing"


def test_json_and_a_page_exclude_each_other(workspace: Workspace) -> None:
    assert listed(workspace, "--json", "--markdown").exit_code == 2
