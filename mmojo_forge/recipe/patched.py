"""Source trees with patches of ours on them: the recipe function, and how the engine knows what it made."""

from __future__ import annotations

from mmojo_forge.model.derivation import Derivation, LocalSource
from mmojo_forge.recipe.api import Files, ForgeFiles, Spec, Wanted, build

_PROGRAM = "recipe/patcher.py"


def apply_patches(name: str, source: Wanted, *, userland: Wanted, patches: Wanted = Files("patches")) -> Spec:
    """The tree of `source` with our patches on it: `patches/*.patch` in the order of their names, each headed by
    Subject:, Why: and Upstream:, and then the new files in `patches/files`, which lie there as in the tree.

    Nothing is guessed. If any does not apply, the build fails after the last and names each, with file and hunk;
    `forge lock` tries them whenever a source of the tree changes.
    """
    return build(
        name,
        userland=userland,
        inputs={"source": source, "patches": patches, "program": ForgeFiles(_PROGRAM)},
        at={"program": "/forge/patcher.py"},
        phases={"patch": "python3 -B /forge/patcher.py /forge/source /forge/patches /forge/out/out"},
    ).containing("source", "patches")


def is_patched(node: Derivation) -> bool:
    """Whether the derivation is one that `apply_patches` described; its input `source` is what the patches are for."""
    program = node.inputs.get("program")
    return program is not None and isinstance(program.node, LocalSource) and program.node.path.endswith(f"/{_PROGRAM}")
