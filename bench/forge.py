"""forge's side: a toy workspace on a scratch disk, and the forge command in it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bench.measure import run
from mmojo_forge.model.lockfile import Lock

REPOSITORY = Path(__file__).resolve().parents[1]

RECIPES = '''
from mmojo_forge.recipe import Package, Spec, recipe

BUSYBOX = "/forge/busybox/bin/busybox"


@recipe("chain")
def chain(busybox: Package, *, n: int = 60, salt: str = ""):
    """A chain of n trivial nodes."""
    inputs = {"busybox": busybox}
    if n > 1:
        inputs["before"] = Package("chain").with_options(n=n - 1, salt=salt)
    return Spec(f"chain-{n}", BUSYBOX, ("sh", "-c", f"echo {n} {salt} > /forge/out/out"), inputs)


@recipe("chain.wide")
def wide(busybox: Package, *, n: int = 1000, salt: str = ""):
    """n trivial nodes side by side, and one that needs them all."""
    leaves = {f"n{k}": Package("chain.leaf").with_options(k=k, salt=salt) for k in range(n)}
    return Spec("wide", BUSYBOX, ("sh", "-c", "echo > /forge/out/out"), {"busybox": busybox, **leaves})


@recipe("chain.leaf")
def leaf(busybox: Package, *, k: int = 0, salt: str = ""):
    """One of them."""
    return Spec(f"leaf-{k}", BUSYBOX, ("sh", "-c", f"echo {k} {salt} > /forge/out/out"), {"busybox": busybox})


@recipe("chain.graph")
def graph(busybox: Package, *, n: int = 99999):
    """A large graph: every node needs the two before it."""
    inputs = {"busybox": busybox}
    for before in (n - 1, n - 2):
        if before >= 0:
            inputs[f"before-{n - before}"] = Package("chain.graph").with_options(n=before)
    return Spec(f"graph-{n}", BUSYBOX, ("sh", "-c", f"echo {n} > /forge/out/out"), inputs)
'''


class ForgeSide:
    """A workspace whose own store has busybox."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "forge"
        (self.root / "toolchains").mkdir(parents=True)
        shutil.copytree(REPOSITORY / "toolchains" / "busybox", self.root / "toolchains" / "busybox")
        (self.root / "recipes" / "chain").mkdir(parents=True)
        (self.root / "recipes" / "chain" / "recipe.py").write_text(RECIPES)
        lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
        (self.root / "forge.lock").write_text(Lock(userlands={"busybox": lock.userlands["busybox"]}).dump())
        self.environment = {**os.environ, "FORGE_STORE": str(self.root / "store")}
        self.run("realize", "-q", "busybox")

    def run(self, *arguments: str) -> str:
        """What `./forge` prints, started as a user starts it."""
        return run([REPOSITORY / "forge", *arguments], self.environment, self.root)

    def python(self, script: str) -> str:
        """What a Python script prints; it can import forge's packages."""
        environment = {**self.environment, "PYTHONPATH": str(REPOSITORY)}
        return run([sys.executable, "-c", script], environment, self.root)
