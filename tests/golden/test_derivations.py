"""Golden vectors: derivation bytes, ids, preimages and keys. A change here changes every cache in the world.

`FORGE_TEST_ACCEPT=1` rewrites the files and marks the tests skipped, so that a changed key is a reviewed diff.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.workspace import as_package
from mmojo_forge.model.derivation import Derivation, action_key
from mmojo_forge.model.digest import BlobDigest, Sha256, TreeId, blake3_hex
from mmojo_forge.model.lockfile import Lock, Pin, Userland
from mmojo_forge.model.node_modules import NodeModules, NpmPackage
from mmojo_forge.model.tree import EntryKind, Tree, TreeEntry
from mmojo_forge.recipe.evaluate import Evaluator
from mmojo_forge.recipe.loader import Loader

HERE = Path(__file__).resolve().parent
TARGETS = ("compiler", "compiler.userland", "app", "app.v3", "app.native", "app.modules")


def pin(name: str, locator: str) -> Pin:
    return Pin(
        name, locator, Sha256(blake3_hex(f"sha256 {name}".encode())), BlobDigest(blake3_hex(name.encode())), len(name)
    )


def package(path: str, locator: str, **more: Any) -> NpmPackage:
    one = pin(locator, locator)
    return NpmPackage(path, locator, one.size, one.sha256, one.blake3, f"sha512-{'A' * 86}==", **more)


APP = pin("app-1.tar.gz", "url:https://example.org/app-1.tar.gz")
PACKAGES = (
    package("node_modules/a", "npm:a@1.0.0", licence="MIT", bins={"a": "bin/a.js"}),
    package("node_modules/@scope/b", "npm:@scope/b@2.0.0-rc.1"),
    package("node_modules/@scope/b/node_modules/a", "npm:a@1.0.0", licence="it's MIT"),
)

LOCK = Lock(
    {
        "compiler-1.0.whl": pin("compiler-1.0.whl", "pypi:compiler==1.0/compiler-1.0.whl"),
        "app-1.tar.gz": APP,
    },
    {
        "base": Userland(
            "base",
            "bookworm",
            "amd64",
            ("bash", "make"),
            {name: pin(name, f"debian:pool/{name}.deb") for name in ("bash", "libc6", "make")},
        )
    },
    npm={
        "app": NodeModules.of(
            "app",
            "app-1.tar.gz",
            "app-1/package-lock.json",
            Tree.of_file(APP.blake3, APP.size).id,
            ("*-musl",),
            PACKAGES,
        )
    },
)


def compare(path: Path, text: str) -> None:
    if os.environ.get("FORGE_TEST_ACCEPT"):
        path.write_text(text)
        pytest.skip(f"rewrote {path.name}")
    assert path.read_text() == text


def tell(node: Derivation) -> str:
    """The derivation, and its key if every input had been built to a tree made of its own name."""
    trees = {name: TreeId(blake3_hex(f"tree {name}".encode())) for name in node.inputs}
    preimage = node.preimage(trees)
    return "\n".join(
        (
            f"derivation {node.id}",
            node.encode().decode(),
            f"action key {action_key(preimage)}",
            preimage.decode(),
            "",
        )
    )


@pytest.mark.parametrize("target", TARGETS)
def test_derivation_bytes_and_keys_are_those_on_file(target: str) -> None:
    evaluator = Evaluator(
        Loader(HERE / "workspace"), LOCK, forge_root=HERE, host_facts=lambda: {"cpu.model": "Golden CPU", "os": "linux"}
    )
    node = evaluator.instantiate(as_package(target)).node
    compare(HERE / "cases" / f"{target}.txt", "\n".join(tell(each) for each in Graph.of([node]).derivations()))


def test_tree_manifest_and_id_are_those_on_file() -> None:
    digest = BlobDigest(blake3_hex(b"content"))
    tree = Tree.of(
        [
            TreeEntry("bin", EntryKind.DIRECTORY),
            TreeEntry("bin/run", EntryKind.EXECUTABLE, digest, 7),
            TreeEntry("bin/ru", EntryKind.SYMLINK, target="run"),
            TreeEntry("bin-2", EntryKind.DIRECTORY),
            TreeEntry('naïve "file"\n', EntryKind.FILE, digest, 7),
        ]
    )
    compare(HERE / "cases" / "tree.txt", f"{tree.id}\n{tree.encode().decode()}\n")


def test_lock_text_is_that_on_file() -> None:
    compare(HERE / "cases" / "forge.lock.txt", LOCK.dump())
