"""Recipes: the fence around them, options, cycles, and that nothing of the host decides what they give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmojo_forge.recipe
from mmojo_forge.engine.query.query import list_targets
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.digest import BlobDigest, Sha256
from mmojo_forge.model.lockfile import Lock, Pin, Userland
from mmojo_forge.recipe import api
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from mmojo_forge.recipe.evaluate import Evaluator, Instance
from mmojo_forge.recipe.loader import Loader
from mmojo_forge.store.memory import MemoryStore

REPOSITORY = Path(__file__).resolve().parents[3]
HEAD = "from mmojo_forge.recipe import Debian, Files, Package, Pypi, Spec, recipe, unpack\n"
PIN = Pin("a.whl", "pypi:a==1/a.whl", Sha256("a" * 64), BlobDigest("b" * 64), 7)


def write(workspace: Path, package: str, text: str) -> Path:
    file = workspace / "recipes" / package / "recipe.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def evaluator(
    workspace: Path, lock: Lock | None = None, overrides: dict[str, dict[str, str]] | None = None
) -> Evaluator:
    return Evaluator(
        Loader(workspace),
        lock or Lock(),
        forge_root=REPOSITORY / "mmojo_forge",
        host_facts=lambda: {"os": "linux", "cpu.model": "Test CPU"},
        overrides=overrides,
    )


def instantiate(workspace: Path, target: str, **settings: str) -> Instance:
    return evaluator(workspace, overrides={target: settings}).instantiate(Package(target))


SIMPLE = """
from typing import Literal
from mmojo_forge.recipe import Package, Spec, build, recipe

@recipe("low")
def low(*, level: Literal["v2", "v3"] = "v2", jobs: int = 1, debug: bool = False) -> Spec:
    return Spec("low", "/forge/x", (level, str(jobs + 1), str(debug)), {})

@recipe("low.high", variants={"other": {"level": "v3"}})
def high(low: Package, *, level: str = "v2") -> Spec:
    return Spec("high", "/forge/low/x", (level,), {"low": low, "also": low.with_options(level="v3")})
"""


def test_what_recipes_may_import_is_what_the_package_offers() -> None:
    assert set(mmojo_forge.recipe.__all__) == {
        *api.__all__,
        "Slice",
        "apply_patches",
        "link_ape",
        "node_modules",
        "package_server",
        "with_files",
    }
    # A module of the package that is called like a function of the API would hide it.
    modules = {path.stem for path in Path(mmojo_forge.recipe.__file__).parent.glob("*.py")}
    assert not modules & set(mmojo_forge.recipe.__all__)


def test_a_recipe_gives_a_derivation_with_its_inputs(tmp_path: Path) -> None:
    write(tmp_path, "low", SIMPLE)
    node = instantiate(tmp_path, "low.high").node
    assert node.name == "high"
    assert node.inputs["low"].node.name == "low"
    assert node.inputs["low"].at == "/forge/low"
    assert node.inputs["low"].node != node.inputs["also"].node


def test_options_are_set_and_validated(tmp_path: Path) -> None:
    write(tmp_path, "low", SIMPLE)
    assert instantiate(tmp_path, "low", level="v3", jobs="4", debug="true").node.args == ("v3", "5", "True")
    assert instantiate(tmp_path, "low.other").node.args == ("v3",)


def test_what_a_user_sets_takes_the_place_of_defaults_and_what_a_recipe_sets_on_purpose_stands(tmp_path: Path) -> None:
    write(tmp_path, "low", SIMPLE)
    node = (
        evaluator(tmp_path, overrides={"low": {"debug": "true", "level": "v2"}}).instantiate(Package("low.high")).node
    )
    low, also = (node.inputs[name].node for name in ("low", "also"))
    assert isinstance(low, Derivation)
    assert isinstance(also, Derivation)
    assert (low.args, also.args) == (("v2", "2", "True"), ("v3", "2", "True"))


@pytest.mark.parametrize(
    ("target", "settings", "reason"),
    [
        ("low", {"level": "v9"}, "bad-option"),
        ("low", {"jobs": "many"}, "bad-option"),
        ("low", {"levle": "v3"}, "no-such-option"),
        ("low.hihg", {}, "unknown-target"),
        ("lwo", {}, "unknown-target"),
    ],
)
def test_a_wrong_option_or_target_is_refused(
    tmp_path: Path, target: str, settings: dict[str, str], reason: str
) -> None:
    write(tmp_path, "low", SIMPLE)
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, target, **settings)
    assert caught.value.reason == reason


def test_an_unknown_target_names_those_that_are_close(tmp_path: Path) -> None:
    write(tmp_path, "low", SIMPLE)
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "low.hihg")
    assert "low.high" in caught.value.detail


@pytest.mark.parametrize(
    "arguments",
    [
        'phases={"b": ""}, env={"N": 3}',
        'phases={"b": ""}, env={3: "N"}',
        'phases={"b": ""}, env=["N=3"]',
        'phases="make"',
        'phases=["make"]',
        'phases={"b": ["make"]}',
        'phases={"b": ""}, inputs=["zlib"]',
        'phases={"b": ""}, outputs="out"',
        'phases={"b": ""}, at={"a": 1}',
    ],
)
def test_a_value_of_another_type_is_refused_with_its_line(tmp_path: Path, arguments: str) -> None:
    text = f'@recipe("bad")\ndef f():\n    return build("bad", userland=Package("low"), {arguments})\n'
    file = write(tmp_path, "bad", f"from mmojo_forge.recipe import Package, build, recipe\n{text}")
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "bad")
    assert (caught.value.reason, caught.value.file, caught.value.line) == ("recipe-bad-type", file, 4)


@pytest.mark.parametrize("wanted", ['"low"', 'Spec("low", "x", (), {})', "None", "3"])
def test_an_input_that_is_none_is_refused_with_its_line(tmp_path: Path, wanted: str) -> None:
    text = f'@recipe("bad")\ndef f():\n    return Spec("bad", "x", (), {{"low": {wanted}}})\n'
    file = write(tmp_path, "bad", f"{HEAD}{text}")
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "bad")
    assert (caught.value.reason, caught.value.file, caught.value.line) == ("recipe-bad-input", file, 4)
    assert "low" in caught.value.message


@pytest.mark.parametrize(
    ("parameters", "line", "reason"),
    [
        ('*, level: Literal["v2"] = "v9"', 5, "option-bad-default"),
        ("*, level: float = 1.5", 5, "option-bad-default"),
        ("*, level: list = []", 5, "option-bad-default"),
        ("*, level=()", 5, "option-bad-default"),
        ("*, level: str = None", 5, "option-bad-default"),
        ("zilb, level", 5, "unknown-target"),
        ("*,\n    more: int = 1,\n    level: float = 2.0", 7, "option-bad-default"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_with_its_line(
    tmp_path: Path, parameters: str, line: int, reason: str
) -> None:
    write(tmp_path, "zlib", f'{HEAD}@recipe("zlib")\ndef f():\n    return Spec("zlib", "x", (), {{}})\n')
    text = f'@recipe(\n    "bad")\ndef f({parameters}):\n    return Spec("bad", "x", (), {{}})\n'
    file = write(tmp_path, "bad", f"{HEAD}from typing import Literal\n{text}")
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "bad")
    assert (caught.value.reason, caught.value.file, caught.value.line) == (reason, file, line)


@pytest.mark.parametrize(
    ("wanted", "reason", "hint"),
    [
        ('Package("zilb")', "unknown-target", "zlib"),
        ('Package("zlib.hihg")', "unknown-target", "zlib"),
        ('Package("zlib").output("dev")', "no-such-output", ""),
        ('Package("zlib").with_options(fast=True)', "no-such-option", ""),
    ],
)
def test_a_wrong_package_is_told_with_who_asks_for_it(tmp_path: Path, wanted: str, reason: str, hint: str) -> None:
    write(tmp_path, "zlib", f'{HEAD}@recipe("zlib")\ndef f():\n    return Spec("zlib", "x", (), {{}})\n')
    body = f'    unused = 1\n    return Spec("bad", "x", (), {{"z": {wanted}}})\n'
    file = write(tmp_path, "bad", f'{HEAD}@recipe("bad")\ndef f():\n{body}')
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "bad")
    assert (caught.value.reason, caught.value.file, caught.value.line) == (reason, file, 5)
    assert hint in caught.value.detail


def test_a_bad_recipe_costs_its_own_target_only(tmp_path: Path) -> None:
    (tmp_path / "forge.lock").write_text("")
    write(tmp_path, "low", SIMPLE)
    bad = '@recipe("bad")\ndef f():\n    return build("bad", userland=Package("low"), phases="make")\n'
    write(tmp_path, "bad", f"from mmojo_forge.recipe import Package, build, recipe\n{bad}")
    rows = list_targets(Workspace(tmp_path, tmp_path / "store"), MemoryStore(tmp_path))
    assert {row.target: row.label for row in rows} == {
        "bad": "recipe-bad-type",
        "low": "reproducible",
        "low.high": "reproducible",
        "low.other": "reproducible",
    }


def test_a_cycle_is_told_with_its_path(tmp_path: Path) -> None:
    for name, needs in (("a", "b"), ("b", "c"), ("c", "a")):
        write(
            tmp_path,
            name,
            f'{HEAD}@recipe("{name}")\ndef f({needs}):\n    return Spec("{name}", "x", (), {{"i": {needs}}})\n',
        )
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "a")
    assert caught.value.reason == "recipe-cycle"
    assert "a → b → c → a" in caught.value.message


def test_a_closure_may_be_deeper_than_pythons_stack(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
@recipe("chain")
def chain(*, n: int = 3000):
    inputs = {"before": Package("chain").with_options(n=n - 1)} if n else {}
    return Spec(f"chain-{n}", "x", (), inputs)
"""
    )
    write(tmp_path, "chain", text)
    assert instantiate(tmp_path, "chain").node.name == "chain-3000"


IMPURE = {
    "an import": "import os",
    "an import from": "from os import environ",
    "a module through an allowed one": "from json import codecs",
    "a relative import": "from . import x",
    "files": "open('/etc/passwd')",
    "evaluated text": "eval('1')",
    "executed text": "exec('1')",
    "the import function": "__import__('os')",
    "a hash": "hash('a')",
    "an identity": "id(1)",
    "a set display": "{1, 2}",
    "a set comprehension": "{x for x in 'ab'}",
    "a set call": "set('ab')",
    "a class through an instance": "().__class__",
    "attributes by name": "getattr(1, 'real')",
    "attributes by format": "'{0.__class__}'.format(1)",
    "a frame through a generator": "(x for x in ()).gi_frame",
    "a class pattern": "match 1:\n        case object(__class__=c): pass",
    "printing": "print(1)",
    "the globals": "globals()",
    "async code": "async def f(): pass",
}


@pytest.mark.parametrize("what", IMPURE)
def test_a_recipe_that_reaches_outside_is_refused_with_file_and_line(tmp_path: Path, what: str) -> None:
    file = write(
        tmp_path,
        "bad",
        f'{HEAD}@recipe("bad")\ndef bad():\n    {IMPURE[what]}\n    return Spec("bad", "x", (), {{}})\n',
    )
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "bad")
    assert caught.value.reason == "recipe-impure"
    assert (caught.value.file, caught.value.line) == (file, 4 + IMPURE[what].count("\n"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:", "recipe-syntax"),
        ("x = 1", "recipe-empty"),
        (HEAD + "1 / 0", "recipe-failed"),
        (HEAD + '@recipe("other")\ndef f():\n    return 1', "recipe-misplaced"),
        (HEAD + '@recipe("bad")\ndef f():\n    return 1\n@recipe("bad")\ndef g():\n    return 1', "recipe-twice"),
        (HEAD + '@recipe("bad")\ndef f():\n    return 1', "recipe-bad-result"),
        (
            HEAD + '@recipe("bad")\ndef f():\n    return Spec("bad", "x", (), {"f": Spec("other", "x", (), {})})',
            "recipe-bad-input",
        ),
        (HEAD + '@recipe("bad")\ndef f():\n    return {}["x"]', "recipe-failed"),
        (
            HEAD + '@recipe("bad")\ndef f():\n    return Spec("bad", "x", (), {"f": Files("../../etc")})',
            "local-files-outside",
        ),
        (
            HEAD + '@recipe("bad")\ndef f():\n    return Spec("bad", "x", (), {"f": Files("none")})',
            "local-files-missing",
        ),
        (HEAD + '@recipe("bad")\ndef f():\n    return Package("nowhere")', "unknown-target"),
        (HEAD + '@recipe("bad")\ndef f():\n    return unpack("u", Pypi("a", "1", "a.whl"))', "pin-missing"),
        (HEAD + '@recipe("bad")\ndef f():\n    return unpack("u", Debian("d", "bookworm", ("bash",)))', "pin-missing"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, "bad", text)
    with pytest.raises(ForgeError) as caught:
        instantiate(tmp_path, "bad")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("source", "name", "locator"),
    [
        (api.Pypi("a", "1", "a-1.whl"), "a-1.whl", "pypi:a==1/a-1.whl"),
        (api.DebianFile("pool/main/o/a_1.tar.xz"), "a_1.tar.xz", "debian:pool/main/o/a_1.tar.xz"),
        (api.DebianFile("pool/updates/main/o/a.tar"), "a.tar", "debian-security:pool/updates/main/o/a.tar"),
        (api.Npm("@scope/a", "1.2"), "scope-a-1.2.tgz", "npm:@scope/a@1.2"),
        (api.Url("https://example.org/x/a.zip"), "a.zip", "url:https://example.org/x/a.zip"),
        (api.Url("https://example.org/?id=1", file="b.zip"), "b.zip", "url:https://example.org/?id=1"),
        (
            api.Git("https://example.org/a.git/", "0" * 40),
            f"a-{'0' * 12}.tar",
            f"git:https://example.org/a.git/#{'0' * 40}",
        ),
    ],
)
def test_a_source_says_what_it_is_called_and_where_it_is_looked_for(source: api.Fixed, name: str, locator: str) -> None:
    assert (source.name, source.locator, source.executable, source.mirrors) == (name, locator, False, ())


def test_a_pin_of_another_locator_is_stale(tmp_path: Path) -> None:
    write(tmp_path, "old", HEAD + '@recipe("old")\ndef f():\n    return unpack("u", Pypi("a", "2", "a.whl"))')
    with pytest.raises(ForgeError) as caught:
        evaluator(tmp_path, Lock({"a.whl": PIN})).instantiate(Package("old"))
    assert caught.value.reason == "pin-stale"


def test_a_userland_becomes_one_input_for_each_package_in_order(tmp_path: Path) -> None:
    write(tmp_path, "land", HEAD + '@recipe("land")\ndef f():\n    return unpack("u", Debian("d", "s", ("b",)))')
    closure = {name: Pin(name, f"debian:{name}", PIN.sha256, PIN.blake3, 1) for name in ("b", "a")}
    lock = Lock(userlands={"d": Userland("d", "s", "amd64", ("b",), closure)})
    node = evaluator(tmp_path, lock).instantiate(Package("land")).node
    assert list(node.inputs) == ["archive-000-a", "archive-000-b"]
    assert node.args[1] == '["archive-000-a","archive-000-b"]'


def test_taking_the_host_labels_the_result_with_the_facts_that_were_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        "native",
        HEAD + '@recipe("native")\ndef f(host):\n    return Spec("n", "x", (host.fact("cpu.model"),), {})\n'
        '@recipe("native.above")\ndef g(native):\n    return Spec("m", "x", (), {"n": native})',
    )
    assert instantiate(tmp_path, "native").node.label.facts == (("cpu.model", "Test CPU"),)
    assert not instantiate(tmp_path, "native.above").node.label.reproducible


ALIAS = """
@recipe("plain")
def plain(*, cpu: str = "any") -> Spec:
    return Spec("p", "x", (cpu,), {})

@recipe("plain.native")
def native(host) -> Package:
    return Package("plain").with_options(cpu=host.fact("cpu.model"))

@recipe("plain.bundle", variants={"native-bundle": {"of": "plain.native"}})
def bundle(*, of: str = "plain") -> Spec:
    return Spec("b", "x", (), {"part": Package(of)}).for_any_machine()
"""


def test_what_stands_for_a_package_by_host_facts_is_labelled_like_one_that_reads_them(tmp_path: Path) -> None:
    write(tmp_path, "plain", HEAD + ALIAS)
    native = instantiate(tmp_path, "plain.native").node
    assert native.label.facts == (("cpu.model", "Test CPU"),)
    assert instantiate(tmp_path, "plain").node.label.reproducible


def test_what_stands_for_a_host_specific_package_has_the_facts_of_both(tmp_path: Path) -> None:
    write(
        tmp_path,
        "twice",
        HEAD + '@recipe("twice")\ndef f(host, *, cpu: str = "any"):\n'
        '    return Spec("n", host.fact("os"), (cpu,), {})\n'
        '@recipe("twice.native")\ndef g(host):\n'
        '    return Package("twice").with_options(cpu=host.fact("cpu.model"))',
    )
    assert instantiate(tmp_path, "twice.native").node.label.facts == (("cpu.model", "Test CPU"), ("os", "linux"))


def test_what_is_for_any_machine_takes_nothing_that_is_host_specific(tmp_path: Path) -> None:
    write(tmp_path, "plain", HEAD + ALIAS)
    assert instantiate(tmp_path, "plain.bundle").node.label.reproducible
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "plain.native-bundle")
    assert caught.value.reason == "host-specific-input"
    assert "cpu.model=Test CPU" in caught.value.message


def test_state_of_a_recipe_file_does_not_last(tmp_path: Path) -> None:
    write(
        tmp_path,
        "state",
        HEAD + 'seen = []\n@recipe("state")\ndef f():\n    seen.append(1)\n    return Spec("s", "x", (), {})',
    )
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "state")
    assert caught.value.reason == "recipe-failed"


def test_a_recipe_says_which_values_of_an_option_make_sense(tmp_path: Path) -> None:
    text = """from mmojo_forge.recipe import BadOption, Spec, recipe

@recipe("picky")
def f(*, of: str = "a"):
    raise BadOption("of", of, "there is none", hint="There are a and b.")
"""
    write(tmp_path, "picky", text)
    with pytest.raises(RecipeError) as caught:
        instantiate(tmp_path, "picky")
    assert (caught.value.reason, caught.value.detail) == ("bad-option", "There are a and b.")
    assert "picky/recipe.py:5: evaluate recipe picky: option of is 'a': there is none" in caught.value.message


_DUMP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.workspace import Workspace, as_package
workspace = Workspace.find(Path(sys.argv[1]))
evaluator = workspace.evaluator(workspace.read_lock())
from mmojo_forge.recipe.loader import Loader
for target in Loader(workspace.root).targets():
    graph = Graph.of([evaluator.instantiate(as_package(target)).node])
    for node in graph.derivations():
        sys.stdout.buffer.write(node.encode() + b"\\n")
"""


def test_another_folder_time_zone_locale_and_hash_seed_give_the_same_derivation_bytes(tmp_path: Path) -> None:
    def dump(folder: Path, **changed: str) -> bytes:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **changed}
        arguments = [sys.executable, "-c", _DUMP, str(REPOSITORY)]
        return subprocess.run(arguments, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE).stdout

    first = dump(REPOSITORY, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    second = dump(tmp_path, PYTHONHASHSEED="4242", TZ="Asia/Kathmandu", LC_ALL="C.UTF-8", USER="somebody")
    assert first == second
    assert first.count(b"\n") > 3
