"""What recipes say of contents and licences; and that our own recipes say all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom import licence
from mmojo_forge.engine.sbom.bom import Bill, BomItem, make_bill
from mmojo_forge.engine.sbom.contents import DeclaredContents
from mmojo_forge.engine.workspace import Workspace, as_package
from mmojo_forge.model.derivation import ALL, Component, Derivation, LocalSource
from mmojo_forge.model.digest import BlobDigest, Sha256
from mmojo_forge.model.lockfile import Lock, Pin, Userland
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.loader import Loader
from tests.unit.recipe.test_recipe import HEAD, REPOSITORY, evaluator, write


def pin(name: str) -> Pin:
    return Pin(name, f"debian:pool/{name}.deb", Sha256("a" * 64), BlobDigest(name[0] * 64), 7)


BASE = Userland("base", "bookworm", "amd64", ("bash",), {name: pin(name) for name in ("bash", "coreutils")})
DEBIAN = 'Debian("base", "bookworm", ("bash",))'
BODY = """
@recipe("made")
def made() -> Spec:
    spec = Spec("made", "/bin/sh", (), {"base": %s, "source": Files("main.c")})
    return spec%s
"""


def derivation(workspace: Path, more: str) -> Derivation:
    (workspace / "recipes/made").mkdir(parents=True, exist_ok=True)
    (workspace / "recipes/made/main.c").write_text("int main() { return 0; }")
    write(workspace, "made", HEAD.replace("Debian,", "Component, Debian,") + BODY % (DEBIAN, more))
    return evaluator(workspace, Lock(userlands={"base": BASE})).instantiate(Package("made")).node


def test_a_recipe_says_what_is_in_it_and_what_that_is_made_of(tmp_path: Path) -> None:
    node = derivation(
        tmp_path, '.made_of(Component("made", licence="MIT", of="source")).containing("source", base=("bash",))'
    )
    assert node.contents == {"source": ALL, "base-bash": ("bash",), "base-coreutils": ("bash",)}
    assert node.components == (Component("made", licence="MIT", of="source"),)


def test_what_a_recipe_says_changes_nothing_that_is_built(tmp_path: Path) -> None:
    bare = derivation(tmp_path / "bare", "")
    assert bare.contents is None
    assert bare.id == derivation(tmp_path / "told", '.made_of(Component("x", licence="MIT")).containing("base")').id


def test_saying_it_in_two_steps_is_saying_both(tmp_path: Path) -> None:
    node = derivation(tmp_path, '.containing("base").containing("source", base=())')
    assert node.contents == {"base-bash": (), "base-coreutils": (), "source": ALL}


def test_an_input_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        derivation(tmp_path, '.containing("sauce")')
    assert caught.value.reason == "no-such-input"


# Our own


def bills() -> Iterator[Bill]:
    workspace = Workspace.find(REPOSITORY)
    lock = workspace.read_lock()
    evaluate = workspace.evaluator(lock)
    seen = set()
    for target in Loader(REPOSITORY).targets():
        instance = evaluate.instantiate(as_package(target))
        if (instance.node.id, instance.output) not in seen:
            seen.add((instance.node.id, instance.output))
            yield make_bill(instance.node, instance.output, target, lock, workspace=REPOSITORY)


@pytest.fixture(scope="module")
def own() -> list[Bill]:
    """The bill of each target of this repository."""
    return list(bills())


def is_debian(item: BomItem) -> bool:
    """A package of Debian: one of a userland, of which nothing gets into what is built."""
    return item.purl.startswith("pkg:deb/")


def is_userland(made_of: Bill) -> bool:
    return any(map(is_debian, made_of.contained)) and not any(part.component.licence for part in made_of.parts.values())


def test_every_build_of_ours_says_what_is_in_it(own: list[Bill]) -> None:
    assert {name for made_of in own for name in made_of.undeclared} == set()


def test_everything_in_our_targets_has_a_licence(own: list[Bill]) -> None:
    shipped = [made_of for made_of in own if not is_userland(made_of)]
    assert len(shipped) > 40
    missing = {item.name for made_of in shipped for item in made_of.unlicensed if not is_debian(item)}
    assert missing == set()


def test_every_tool_of_ours_but_debians_has_a_licence(own: list[Bill]) -> None:
    tools = {item.ref: item for made_of in own for item in made_of.built_with}
    missing = [
        item.name
        for item in tools.values()
        if not is_debian(item) and not item.ref.startswith("tree:") and not licence.is_expression(item.licence)
    ]
    assert missing == []


def test_nothing_of_debians_is_in_what_is_shipped(own: list[Bill]) -> None:
    [ape] = [made_of for made_of in own if made_of.root.name == "mmojo-server.ape"]
    assert not any(map(is_debian, ape.contained))
    assert {"llama.cpp", "cpp-httplib", "musl", "mingw-w64", "ape-launcher"} <= {item.name for item in ape.contained}
    assert {"zig", "cmake", "ninja"} <= {item.name for item in ape.built_with}


def test_all_that_zig_links_for_a_system_is_chosen_from_what_zig_is_made_of() -> None:
    workspace = Workspace.find(REPOSITORY)
    instance = workspace.evaluator(workspace.read_lock()).instantiate(as_package("hello.ape"))
    graph = Graph.of([instance.node])
    windows = next(node for node in graph.derivations() if node.name == "hello-windows-x86_64")
    names = {
        part.component.name for part in DeclaredContents(graph).of(windows) if not isinstance(part.source, LocalSource)
    }
    assert "mingw-w64" in names
    assert "musl" not in names
