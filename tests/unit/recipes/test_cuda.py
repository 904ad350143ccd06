"""The CUDA module's recipe: which architectures there are, what each is for, and what of NVIDIA's is in the result."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.sbom.bom import Bill, make_bill
from mmojo_forge.engine.sbom.documents import SbomError, check_redistributable
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.recipe.api import Package
from mmojo_forge.recipe.errors import RecipeError
from tests.conftest import REPOSITORY

KERNELS = REPOSITORY / "recipes" / "ggml-cuda" / "link" / "kernels.py"
WORKSPACE = Workspace(REPOSITORY, REPOSITORY / "store")


def module(**options: str | bool) -> Derivation:
    return node("ggml-cuda.lean", **options)


def node(name: str, **options: str | bool) -> Derivation:
    package = Package(name).with_options(**options)
    found = WORKSPACE.evaluator(WORKSPACE.read_lock()).instantiate(package).node
    assert isinstance(found, Derivation)
    return found


def script(node: Derivation) -> str:
    return node.args[-1]


def bill(node: Derivation) -> Bill:
    return make_bill(node, "out", "it", WORKSPACE.read_lock(), workspace=REPOSITORY)


def test_the_order_and_repetition_of_architectures_make_no_difference() -> None:
    assert module(archs="90 75  90").id == module(archs="75 90").id
    assert module(archs="75 90").env["ARCHS"] == "75 90"
    assert module(archs="90-virtual 120a 90").env["ARCHS"] == "90 90-virtual 120a"


def test_one_architecture_more_leaves_all_other_nodes_as_they_were() -> None:
    few, more = (set(Graph.of([module(archs=archs)]).nodes) for archs in ("75 90", "75 86 90"))
    assert {node.name for node in Graph.of([module(archs="75 86 90")]).derivations() if node.id in more - few} == {
        "ggml-cuda-lean",
        "ggml-cuda-86",
    }
    assert few - more == {module(archs="75 90").id}


def test_without_flash_attention_everything_is_compiled_anew() -> None:
    assert "GGML_CUDA_NO_FA" in script(node("ggml-cuda.host", fa=False))
    assert "GGML_CUDA_NO_FA" not in script(node("ggml-cuda.host"))
    nodes = {one.name: one.id for one in Graph.of([module(archs="90", fa=False)]).derivations()}
    assert nodes["ggml-cuda-90"] == node("ggml-cuda.arch", arch="90", fa=False).id
    assert nodes["ggml-cuda-host"] == node("ggml-cuda.host", fa=False).id


def test_the_quick_one_compiles_for_no_architecture_of_its_own() -> None:
    names = {one.name for one in Graph.of([node("ggml-cuda.quick")]).derivations()}
    assert not any(re.match(r"ggml-cuda-\d", name) for name in names)


@pytest.mark.parametrize("archs", ["52", "75 sm_90", "120", "90f", "75;90", "native", "120A", "90 -virtual"])
def test_an_architecture_that_nvcc_does_not_know_is_refused_before_anything_is_built(archs: str) -> None:
    with pytest.raises(RecipeError) as caught:
        module(archs=archs)
    assert caught.value.reason == "bad-option"
    assert "121a" in caught.value.detail  # names those that there are


@pytest.mark.parametrize("archs", ["", "  "])
def test_no_architecture_is_refused(archs: str) -> None:
    with pytest.raises(RecipeError) as caught:
        module(archs=archs)
    assert caught.value.reason == "bad-option"


def test_an_architecture_of_its_own_is_checked_as_well() -> None:
    with pytest.raises(RecipeError) as caught:
        WORKSPACE.evaluator(WORKSPACE.read_lock(), overrides={"ggml-cuda.arch": {"arch": "52"}}).instantiate(
            Package("ggml-cuda.arch")
        )
    assert caught.value.reason == "bad-option"


@pytest.mark.parametrize(
    ("arch", "reach"),
    [
        ("75", (750, 790)),
        ("90", (900, 990)),
        ("90a", (900, 900)),
        ("100f", (1000, 1090)),
        ("110", (1100, 1190)),
        ("120a", (1200, 1200)),
        ("90-virtual", (900, 9990)),
        ("120a-virtual", (1200, 1200)),
        ("121f-virtual", (1210, 1290)),
    ],
)
def test_ggml_is_told_which_devices_the_code_for_an_architecture_runs_on(arch: str, reach: tuple[int, int]) -> None:
    assert f"{{ {{{reach[0]}, {reach[1]}}}, {{0, 0}} }}" in script(module(archs=arch))


def test_the_table_is_sorted_and_ends() -> None:
    [rows] = re.findall(r"linked_archs\[\] = \{ (.*) \};", script(module()))
    firsts = [int(first) for first in re.findall(r"\{(\d+),", rows)]
    assert firsts[-1] == 0
    assert firsts[:-1] == sorted(firsts[:-1])


def test_of_nvidias_toolkit_only_what_may_be_passed_on_is_in_the_module() -> None:
    made_of = bill(module(archs="75-virtual 90"))
    check_redistributable(made_of)
    inside = {item.name for item in made_of.contained}
    assert {"cudart", "cub", "libdevice", "libstdc++-12-dev", "libunwind"} <= inside
    assert not {name for name in inside if name.startswith("nvidia-")}
    assert {item.name for item in made_of.built_with} >= {"nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt"}


def test_the_compilers_themselves_may_not_be_passed_on_and_cublas_may() -> None:
    with pytest.raises(SbomError) as caught:
        check_redistributable(bill(node("nvcc")))
    assert caught.value.reason == "not-redistributable"
    assert "nvidia-cuda-nvcc" in caught.value.message
    check_redistributable(bill(node("ggml-cuda.blas")))


PTX = ".version 9.0\n.target sm_75\n.visible .entry {}(\n.param .u64 x\n)\n"


def elf(sections: list[tuple[str, bytes]]) -> bytes:
    """An ELF object of these sections, as far as kernels.py reads it."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in sections) + b".shstrtab\0"
    rows, data = [bytes(64)], b""
    for name, content in [*sections, (".shstrtab", names)]:
        row = [names.index(name.encode() + b"\0"), 1, 0, 0, 64 + len(data), len(content), 0, 0, 0, 0]
        rows.append(b"".join(value.to_bytes(4 if at in {0, 1, 6, 7} else 8, "little") for at, value in enumerate(row)))
        data += content
    head = bytes(40) + (64 + len(data)).to_bytes(8, "little") + bytes(10)
    counts = b"".join(value.to_bytes(2, "little") for value in (64, len(rows), len(rows) - 1))
    return (head + counts).ljust(64, b"\0") + data + b"".join(rows)


def compare(folder: Path, registered: bytes, ptx: str) -> subprocess.CompletedProcess[str]:
    host, code = folder / "host", folder / "code"
    host.mkdir()
    code.mkdir()
    (host / "norm.o").write_bytes(elf([(".rodata.str1.1", registered)]))
    (code / "norm.ptx").write_text(ptx)
    command = [sys.executable, "-B", str(KERNELS), str(host), str(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_kernels_on_both_sides_are_fine(tmp_path: Path) -> None:
    """Variables that only one file has are among the host's names as well, and are of no interest."""
    names = b"words\0_Z4normPf\0_ZN15_INTERNAL_4_norm3cub5beginE\0_Z4normPf.x\0"
    done = compare(tmp_path, names, PTX.format("_Z4normPf"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("registered", "compiled"),
    [(b"_Z4normPf\0_Z3sumPf\0", "_Z4normPf"), (b"words\0", "_Z4normPf"), (b"_Z4normPf\0", "")],
)
def test_a_kernel_that_only_one_side_knows_fails_the_build(tmp_path: Path, registered: bytes, compiled: str) -> None:
    done = compare(tmp_path, registered, PTX.format(compiled) if compiled else "")
    assert done.returncode == 1
    assert "norm: kernel " in done.stderr
