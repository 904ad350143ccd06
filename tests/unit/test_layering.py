"""The layers of the house: who may import whom. A rule without a check decays."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import networkx

PACKAGE = Path(__file__).resolve().parents[2] / "mmojo_forge"
MODULES = sorted(PACKAGE.rglob("*.py"))
MIDDLE = ("recipe", "fetch", "store", "executor", "ape")

# What every layer may use, but not `ape` and the patcher: they are build inputs, and every file they need is one too.
BASE = {"errors", "files"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "extras": {"errors"},
    "model": {*BASE, "model"},
    "net": {*BASE, "model", "net"},
    **{layer: {*BASE, "model", layer} for layer in MIDDLE},
    "ape": {"errors", "model", "ape"},
    "fetch": {*BASE, "model", "net", "fetch"},
    "cache": {*BASE, "extras", "model", "net", "cache", "store"},
    "engine": {*BASE, "extras", "model", "net", *MIDDLE, "cache", "engine"},
    "cli": {*BASE, "model", "engine", "cli"},
    "__main__": {"cli"},
    "__init__": set(),
}
# Of a layer that may be imported only in part: caches know what a store can do, not how one is made.
ONLY = {("cache", "store"): {"mmojo_forge.store.protocol"}}

# Imports inside functions, each with the reason why it is late: start-up time, and nothing else.
LATE_IMPORTS = {
    (
        "cache/transport/open_transport.py",
        "mmojo_forge.cache.transport.bazel",
    ): "requests, only for a cache behind HTTP",
    ("cache/transport/open_transport.py", "mmojo_forge.cache.transport.bucket"): "obstore, only for a bucket",
    ("cache/transport/open_transport.py", "mmojo_forge.cache.transport.web"): "requests, for HTTP",
    ("engine/cache/serve.py", "mmojo_forge.cache.server.server"): "aiohttp, which is an extra",
    ("cli/command_tree.py", "difflib"): "only for a typing error",
    ("cli/command_tree.py", "platformdirs"): "not for commands that only look at a file",
    ("cli/command_tree.py", "mmojo_forge.engine.session"): "not for --help and --version",
    ("engine/session.py", "mmojo_forge.engine.cache.background_push"): "only where there are caches",
    ("engine/session.py", "mmojo_forge.engine.cache.open"): "only where there are caches",
    ("engine/session.py", "mmojo_forge.engine.cache.settings"): "only where there are caches",
    ("engine/session.py", "mmojo_forge.engine.cache.substituter"): "only where there are caches",
    ("engine/session.py", "mmojo_forge.engine.trust.keys"): "cryptography, only where something is built or trusted",
    ("engine/session.py", "mmojo_forge.executor.bubblewrap"): "needed only to build",
    ("engine/session.py", "mmojo_forge.fetch.fetcher"): "requests is needed only to download",
    ("engine/session.py", "mmojo_forge.fetch.settings"): "as the fetcher",
    ("cli/main.py", "mmojo_forge.cli.command_tree"): "click, rich and the engine are not needed on the no-op path",
    ("cli/main.py", "site"): "started with -S; installed packages are not needed on the no-op path",
    ("cli/terminal.py", "rich.console"): "only where a person looks on",
    ("cli/terminal.py", "rich.live"): "only where a person looks on",
    ("cli/terminal.py", "rich.table"): "only where a person looks on",
    ("cli/terminal.py", "rich.text"): "only where a person looks on",
    ("engine/bench/plot.py", "matplotlib"): "takes a second, and only `forge bench --plot` draws",
    ("engine/bench/plot.py", "matplotlib.figure"): "takes a second, and only `forge bench --plot` draws",
    ("engine/config.py", "difflib"): "only for a typing error",
    ("engine/difference.py", "lief"): "only to name the section in which an executable differs",
    ("engine/graph.py", "networkx"): "100 ms, and neither planning nor realising needs it",
    ("engine/query/repair.py", "networkx"): "100 ms, only where something was lost",
    ("engine/realise/builtins.py", "mmojo_forge.fetch.archive"): "decompressors, only to unpack",
    ("engine/realise/run.py", "mmojo_forge.engine.difference"): "only where something differs",
    ("engine/host_facts.py", "archspec"): "only for targets that ask what CPU this is",
    ("engine/locations.py", "tomllib"): "most users have no configuration file",
    ("recipe/evaluate.py", "pydantic"): "only where an option is not of its plain type already",
    ("store/db/traces.py", "networkx"): "100 ms, only for gc --keep-closure",
    ("store/local.py", "mmojo_forge.store.maintain.maintenance"): "no build needs it",
    ("store/noop_lookup.py", "hashlib"): "only for a link whose path is too long for a file name",
}
# `if TYPE_CHECKING` is allowed where the module is imported late for start-up time anyway, for the annotation.
TYPE_CHECKING_MODULES = {
    "cli/command_tree.py",
    "engine/session.py",
    "engine/bench/plot.py",
    "engine/graph.py",
    "engine/cache/serve.py",
    "store/local.py",
}
# The no-op path may import the standard library and these modules only.
NOOP_MODULES = {
    "cli/main.py",
    "engine/noop.py",
    "engine/locations.py",
    "engine/realise/evaluation_cache.py",
    "store/noop_lookup.py",
    "store/layout.py",
}
MOST_LINES = 700
MOST_FUNCTION_LINES = 45
MOST_MODULES = 15
# Beside the CLI nobody reads the environment, the arguments, or prints; these are programs of their own in the sandbox.
CLI_ONLY = {("os", "environ"), ("os", "getenv"), ("sys", "argv"), ("sys", "exit"), ("sys", "stdout")}
CLI_LIKE = {"ape/__main__.py", "recipe/patcher.py"}


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Parsed once for all tests, of which none changes it."""
    return ast.parse(path.read_text())


def imported_modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield node.module or ""


def module_file(module: str, names: list[str]) -> Iterator[str]:
    """The package files that `from module import names` reaches."""
    relative = module.removeprefix("mmojo_forge").lstrip(".").replace(".", "/")
    for name in names:
        candidate = f"{relative}/{name}.py".lstrip("/")
        if (PACKAGE / candidate).is_file():
            yield candidate
    for candidate in (f"{relative}.py", f"{relative}/__init__.py".lstrip("/")):
        if (PACKAGE / candidate).is_file():
            yield candidate


def module_level_imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    tree = parsed(path)
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names]


def test_a_module_imports_only_from_its_own_layer_and_those_below() -> None:
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            for module in imported_modules(node):
                if module.startswith("mmojo_forge."):
                    layer = module.split(".")[1]
                    assert layer in ALLOWED[layer_of(path)], f"{name_of(path)} imports {module}"
                    only = ONLY.get((layer_of(path), layer))
                    assert only is None or module in only, f"{name_of(path)} imports {module}"


def test_the_patcher_which_is_a_build_input_needs_nothing_of_ours() -> None:
    for node in ast.walk(parsed(PACKAGE / "recipe/patcher.py")):
        assert not any(module.startswith("mmojo_forge") for module in imported_modules(node))


def test_imports_stand_at_the_top_unless_they_are_late_for_a_listed_reason() -> None:
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for module in (found for inner in ast.walk(node) for found in imported_modules(inner)):
                    assert (name_of(path), module) in LATE_IMPORTS, f"{name_of(path)} imports {module} late"
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                assert name_of(path) in TYPE_CHECKING_MODULES, f"{name_of(path)} hides imports"


def test_every_listed_late_import_is_still_there() -> None:
    found: set[tuple[str, str]] = set()
    for path in MODULES:
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef):
                found.update(
                    (name_of(path), module) for node in ast.walk(function) for module in imported_modules(node)
                )
    assert set(LATE_IMPORTS) <= found


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {
        name_of(path): {file for module, names in module_level_imports(path) for file in module_file(module, names)}
        for path in MODULES
    }
    # A package's __init__ re-exports what is below it: the one place where a package imports downwards.
    graph = networkx.DiGraph(
        (module, target)
        for module, targets in edges.items()
        for target in targets
        if target != module and not target.endswith("__init__.py")
    )
    assert list(networkx.simple_cycles(graph)) == []


def test_only_the_command_line_touches_arguments_environment_and_exit() -> None:
    for path in MODULES:
        if layer_of(path) in {"cli", "__main__"} or name_of(path) in CLI_LIKE:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in CLI_ONLY, f"{name_of(path)}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{name_of(path)}:{node.lineno}"


def test_the_no_op_path_imports_the_standard_library_and_itself_only() -> None:
    for name in NOOP_MODULES:
        for module, names in module_level_imports(PACKAGE / name):
            if module.startswith("mmojo_forge"):
                reached = {file for file in module_file(module, names) if not file.endswith("__init__.py")}
                assert reached <= NOOP_MODULES, f"{name} imports {module}"
            else:
                assert module.split(".")[0] in {
                    "__future__",
                    "os",
                    "sys",
                    "json",
                    "zlib",
                    "sqlite3",
                    "time",
                    "collections",
                    "dataclasses",
                }, f"{name} imports {module}"


def test_http_is_spoken_in_one_module() -> None:
    speaking = {
        name_of(path)
        for path in MODULES
        for module, _ in module_level_imports(path)
        if module.split(".")[0] in {"requests", "urllib3"} or module in {"http.client", "urllib.request"}
    }
    assert speaking == {"net/client.py"}


def test_modules_and_functions_stay_small() -> None:
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= MOST_LINES, name_of(path)
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                docstring = len((ast.get_docstring(node) or "").splitlines())
                lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
                assert lines <= MOST_FUNCTION_LINES, f"{name_of(path)}: {node.name} has {lines} lines"


def test_folders_stay_small_and_say_what_they_are_for() -> None:
    for folder in {path.parent for path in MODULES} - {PACKAGE}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, f"{name_of(folder)} has {len(modules)} modules"
        assert ast.get_docstring(parsed(folder / "__init__.py")), f"{name_of(folder)} does not say what it is for"


def test_no_module_keeps_mutable_state() -> None:
    for path in MODULES:
        for node in parsed(path).body:
            for name, value in assignments(node):
                if isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
                    assert name == "__all__", f"{name_of(path)}: {name}"
            for inner in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
                assert not isinstance(inner, ast.Global), f"{name_of(path)}: global"


def assignments(node: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """The names that a statement binds, each with what it binds it to."""
    if isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node.value
