"""Source trees with patches of ours on them: the recipe function, and how the engine knows what it made.

npm packages as inputs: from a locked closure to sources, and to what the builder of a node_modules is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmojo_forge.model import canonical
from mmojo_forge.model.derivation import Derivation, Input, LocalSource, Source
from mmojo_forge.model.node_modules import NodeModules, NpmPackage, lay_out
from mmojo_forge.recipe.api import Files, Fixed, ForgeFiles, NpmClosure, Spec, Wanted, build

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


BUILDER = "builtin:node-modules"


def node_modules(name: str, closure: NpmClosure) -> Spec:
    """The content of a node_modules: each package of the closure where its package-lock.json has it, and links to
    commands in .bin. No script of a package is ever run."""
    return Spec(name=name, builder=BUILDER, args=(), inputs={"package": closure})


@dataclass(frozen=True, slots=True)
class Declaration:
    """A closure that a recipe declares, and the source in which its package-lock.json is, as that is pinned now."""

    wanted: NpmClosure
    origin: Source | LocalSource

    def is_met_by(self, locked: NodeModules) -> bool:
        """Whether what is locked was read from this source and chosen in this way."""
        return (locked.source, locked.path, locked.exclude, locked.tree) == (
            name_of(self.wanted.lock),
            self.wanted.path,
            self.wanted.exclude,
            self.origin.tree,
        )

    def locked(self, packages: Iterable[NpmPackage]) -> NodeModules:
        """The closure with these packages, for the lock."""
        wanted = self.wanted
        return NodeModules.of(
            wanted.name, name_of(wanted.lock), wanted.path, self.origin.tree, wanted.exclude, packages
        )


def name_of(lock: Fixed | Files) -> str:
    """What forge.lock calls the source of a package-lock.json."""
    return lock.path if isinstance(lock, Files) else lock.name


def source_of(package: NpmPackage) -> Source:
    """The package's tarball."""
    return Source(package.source_name, package.locator, package.blake3, package.size, package.sha256)


def inputs_of(packages: Iterable[NpmPackage], name: str) -> tuple[dict[str, Input], str]:
    """The tarballs as inputs whose names begin with `name`, and the argument that says where each is unpacked."""
    layout = lay_out(packages)
    inputs = {
        f"{name}-{tarball}": Input(source_of(package), "out", f"/forge/{name}-{tarball}")
        for tarball, package in layout.tarballs.items()
    }
    folders = {f"{name}-{tarball}": folders for tarball, folders in layout.folders.items()}
    return inputs, canonical.encode({"bins": dict(layout.bins), "packages": folders}).decode()
