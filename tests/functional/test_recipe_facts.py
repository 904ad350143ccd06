"""What recipes say of versions, compared with the sources that say it: nothing else would notice that one is old."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.loader import run_recipe_file
from tests.conftest import REPOSITORY, realize

WORKSPACE = Workspace(REPOSITORY, REPOSITORY / "store")
SDIST = "llama_cpp_python-0.3.36.tar.gz"


def facts() -> dict[str, Any]:
    """What all recipes say of the llama.cpp that they build."""
    return run_recipe_file(REPOSITORY / "recipes" / "lib" / "llama_cpp.py")


def module_facts(package: str) -> dict[str, Any]:
    """What the recipe of a module writes into module.json."""
    node = WORKSPACE.evaluator(WORKSPACE.read_lock()).instantiate(Package(package)).node
    assert isinstance(node, Derivation)
    # It stands in quotes in the script, at the beginning of a word.
    starts = [found.end() for found in re.finditer(r"(?<=\s)'(?=\{)", node.args[-1])]
    [facts] = [json.JSONDecoder().raw_decode(node.args[-1], start)[0] for start in starts]
    assert isinstance(facts, dict)
    return facts


def version_in(cmake: Path, project: str) -> str:
    """MAJOR.MINOR.PATCH as a CMakeLists.txt of upstream sets it."""
    text = cmake.read_text()
    numbers = [re.findall(rf"set\({project}_VERSION_{part} (\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number for [number] in numbers)


@pytest.fixture(scope="module")
def upstream() -> Path:
    [tree] = realize("llama-cpp.upstream")
    return tree


@pytest.mark.parametrize("module", ["ggml-cuda.lean", "ggml-vulkan"])
def test_a_module_says_the_version_of_the_ggml_that_it_was_built_from(module: str, upstream: Path) -> None:
    assert module_facts(module)["ggml"]["version"] == version_in(upstream / "ggml" / "CMakeLists.txt", "GGML")


def test_the_server_says_the_version_of_the_llama_cpp_that_it_was_built_from(upstream: Path) -> None:
    assert facts()["VERSION"] == version_in(upstream / "CMakeLists.txt", "LLAMA") + "-dev"


def test_the_commit_that_all_say_is_the_one_in_the_source() -> None:
    said = {module_facts(module)["ggml"]["commit"] for module in ("ggml-cuda.lean", "ggml-vulkan")}
    [commit] = said | {facts()["BUILD_COMMIT"]}
    with tarfile.open(archive()) as sdist:
        head = sdist.extractfile(f"{SDIST.removesuffix('.tar.gz')}/.git/modules/vendor/llama.cpp/HEAD")
        assert head is not None
        assert head.read().decode().startswith(commit)


def archive() -> Path:
    """The source's archive in the store; skips the test if only its unpacked tree is there."""
    digest = str(WORKSPACE.read_lock().sources[SDIST].blake3)
    path = Path(os.environ.get("FORGE_STORE") or REPOSITORY / "store") / "blobs" / digest[:2] / digest[2:]
    if not path.exists():
        pytest.skip("the archive of llama.cpp's source is not in the store")
    return path


def test_the_cuda_module_says_which_compilers_made_it() -> None:
    lock = WORKSPACE.read_lock()
    [nvcc] = [pin for pin in lock.sources.values() if pin.name.startswith("nvidia_cuda_nvcc-")]
    gcc = WORKSPACE.evaluator(lock).instantiate(Package("gcc")).node
    compiler = module_facts("ggml-cuda.lean")["compiler"]
    assert (compiler["version"], compiler["host"].replace(" ", "-")) == (nvcc.version, gcc.name)
