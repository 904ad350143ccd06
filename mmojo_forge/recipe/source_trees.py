"""Specs for two kinds of source trees: a source with our patches, and the node_modules of an npm closure.

For patches: `apply_patches` makes the spec, and `is_patched` recognises its derivation. For npm: `node_modules` makes
the spec, Declaration compares a closure with the lock, and `inputs_of` turns the locked packages into inputs.
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
    """A spec for the tree of `source` with our patches applied.

    The build applies `patches/*.patch` in the order of their names; each begins with the lines Subject:, Why: and
    Upstream:. Then it copies the new files in `patches/files`, which have the same paths as in the tree.

    Patches must apply without fuzz. The build tries all of them, then fails and names each file and hunk that does not
    apply. `forge lock` tries the patches whenever a source of the tree changes.
    """
    return build(
        name,
        userland=userland,
        inputs={"source": source, "patches": patches, "program": ForgeFiles(_PROGRAM)},
        at={"program": "/forge/patcher.py"},
        phases={"patch": "python3 -B /forge/patcher.py /forge/source /forge/patches /forge/out/out"},
    ).containing("source", "patches")


def is_patched(node: Derivation) -> bool:
    """Whether the derivation comes from a spec of `apply_patches`. Its input `source` is the unpatched source."""
    program = node.inputs.get("program")
    return program is not None and isinstance(program.node, LocalSource) and program.node.path.endswith(f"/{_PROGRAM}")


BUILDER = "builtin:node-modules"


def node_modules(name: str, closure: NpmClosure) -> Spec:
    """A spec for a node_modules folder: the closure's packages at the paths in package-lock.json, and commands in .bin.

    forge never runs the packages' scripts.
    """
    return Spec(name=name, builder=BUILDER, args=(), inputs={"package": closure})


@dataclass(frozen=True, slots=True)
class Declaration:
    """A closure that a recipe declares, and the currently pinned source that has its package-lock.json."""

    wanted: NpmClosure
    origin: Source | LocalSource

    def is_met_by(self, locked: NodeModules) -> bool:
        """Whether `locked` was read from this source, with the same path and exclusions."""
        return (locked.source, locked.path, locked.exclude, locked.tree) == (
            name_of(self.wanted.lock),
            self.wanted.path,
            self.wanted.exclude,
            self.origin.tree,
        )

    def locked(self, packages: Iterable[NpmPackage]) -> NodeModules:
        """The closure with these packages, as forge.lock holds it."""
        wanted = self.wanted
        return NodeModules.of(
            wanted.name, name_of(wanted.lock), wanted.path, self.origin.tree, wanted.exclude, packages
        )


def name_of(lock: Fixed | Files) -> str:
    """The name in forge.lock of the source that has a package-lock.json."""
    return lock.path if isinstance(lock, Files) else lock.name


def source_of(package: NpmPackage) -> Source:
    """The package's tarball as a source."""
    return Source(package.source_name, package.locator, package.blake3, package.size, package.sha256)


def inputs_of(packages: Iterable[NpmPackage], name: str) -> tuple[dict[str, Input], str]:
    """The tarballs as inputs whose names begin with `name`, and the builder's argument: where to unpack each (JSON)."""
    layout = lay_out(packages)
    inputs = {
        f"{name}-{tarball}": Input(source_of(package), "out", f"/forge/{name}-{tarball}")
        for tarball, package in layout.tarballs.items()
    }
    folders = {f"{name}-{tarball}": folders for tarball, folders in layout.folders.items()}
    return inputs, canonical.encode({"bins": dict(layout.bins), "packages": folders}).decode()
