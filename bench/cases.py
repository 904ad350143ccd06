"""The cases: one function each, which measures both sides and yields rows of the table.

The budgets are those of the design.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from bench import caches
from bench.forge import REPOSITORY, ForgeSide
from bench.measure import Row, Timing, in_turn, run, timed
from bench.nix import NixSide


class Sides:
    """forge and nix in one scratch folder; with `quick`, every case is small. `nix` is None if it is not installed."""

    def __init__(self, scratch: Path, *, quick: bool) -> None:
        self.scratch = scratch
        self.quick = quick
        self.forge = ForgeSide(scratch)
        busybox = Path(self.forge.run("store", "path", "busybox").strip()) / "bin" / "busybox"
        self.nix = NixSide(scratch, busybox) if NixSide.is_here() else None

    @property
    def runs(self) -> int:
        """How often a case repeats short actions."""
        return 5 if self.quick else 21


def noop(sides: Sides) -> Iterator[Row]:
    """A second realize of a 60-node chain, with and without the evaluation cache."""
    forge, nix = sides.forge, sides.nix
    for _ in range(2):
        forge.run("realize", "-q", "chain")
        forge.run("realize", "chain")
    if nix:
        nix.build("chain", 60, "noop")
    peer = (lambda: nix.build("chain", 60, "noop")) if nix else None
    ours, theirs = in_turn(lambda: forge.run("realize", "chain"), peer, sides.runs)
    yield Row("no-op realize, 60-node chain", ours, theirs, "nix-build", "40 ms; 1.5 ×, then 1.0 ×")
    # A no-op must not ask caches. Nothing listens at this address, so asking would fail or take long.
    settings = forge.root / "forge.toml"
    settings.write_text('[cache.team]\nurl = "http://127.0.0.1:9/"\n')
    forge.run("realize", "chain")
    ours, _ = in_turn(lambda: forge.run("realize", "chain"), None, sides.runs)
    yield Row("the same with a cache set", ours, None, "", "40 ms")
    settings.unlink()
    cache = Path(forge.environment["FORGE_STORE"]) / "cache" / "evaluation"
    ours, _ = in_turn(lambda: forge.run("realize", "-q", "chain"), None, sides.runs, lambda: shutil.rmtree(cache, True))
    yield Row("the same without the evaluation cache", ours, None, "", "400 ms")


def trivial(sides: Sides) -> Iterator[Row]:
    """Trivial sandboxed nodes side by side, and in a chain."""
    forge, nix = sides.forge, sides.nix
    wide, chain = (100, 20) if sides.quick else (1000, 60)
    salts = iter(range(1000))

    def ours(target: str, n: int) -> Callable[[], object]:
        return lambda: forge.run(
            "realize", "-q", "--no-link", target, "--set", f"n={n}", "--set", f"salt=s{next(salts)}"
        )

    def theirs(attribute: str, n: int) -> Callable[[], object] | None:
        return (lambda: nix.build(attribute, n, f"s{next(salts)}")) if nix else None

    mine, peer = in_turn(ours("chain.wide", wide), theirs("wide", wide), 2)
    yield Row(f"{wide} trivial nodes side by side, per node", mine, peer, "nix-build", "10 ms; 0.3 ×", per=wide)
    mine, peer = in_turn(ours("chain", chain), theirs("chain", chain), 2 if sides.quick else 3)
    yield Row(f"a chain of {chain}, per node", mine, peer, "nix-build", "0.4 ×", per=chain)


_PLAN = """
import gc, resource, time
gc.set_threshold(200_000, 50, 100)
from pathlib import Path
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.workspace import Workspace
from mmojo_forge.recipe.api import Package
from mmojo_forge.store.local import LocalStore
workspace = Workspace.find(Path.cwd())
with LocalStore.open(workspace.store) as store:
    begun = time.perf_counter()
    instance = workspace.evaluator(workspace.read_lock()).instantiate(Package("chain.graph", (("n", {n}),)))
    plan = make_plan(Graph.of([instance.node]), store)
    print(time.perf_counter() - begun, len(plan.steps), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def plan(sides: Sides) -> Iterator[Row]:
    """Instantiate and plan a graph of 100,000 nodes."""
    n = 9_999 if sides.quick else 99_999
    answers = [sides.forge.python(_PLAN.format(n=n)).split() for _ in range(3)]
    memory = max(int(kilobytes) for _, _, kilobytes in answers) / 1e6
    timing = Timing(tuple(float(seconds) for seconds, _, _ in answers))
    yield Row(f"instantiate and plan {n + 1} nodes", timing, None, f"{memory:.2f} GB", "4 s, 1 GB")


_STORE = """
import time
from pathlib import Path
from blake3 import blake3
from mmojo_forge.store.local import LocalStore
tree, folder = Path({tree!r}), Path({folder!r})
with LocalStore.open(folder) as store:
    begun = time.perf_counter()
    added = store.add_path(tree)
    store.checkout(added.id, "zig")
    store.sync()
    imported = time.perf_counter() - begun
    begun = time.perf_counter()
    assert store.verify().findings == ()
    verified = time.perf_counter() - begun
begun = time.perf_counter()
for file in tree.rglob("*"):
    if file.is_file():
        blake3(file.read_bytes()).digest()
print(imported, verified, time.perf_counter() - begun)
"""


def store(sides: Sides) -> Iterator[Row]:
    """Import and verify of the zig toolchain (18,000 files)."""
    tree = run([REPOSITORY / "forge", "realize", "-q", "--no-link", "zig"], os.environ, REPOSITORY).strip()
    imports, verifies, reads, nix_adds = [], [], [], []
    for attempt in range(2 if sides.quick else 3):
        folder = sides.scratch / f"store-{attempt}"
        script = _STORE.format(tree=tree, folder=str(folder))
        imported, verified, read = (float(word) for word in sides.forge.python(script).split())
        imports.append(imported)
        verifies.append(verified)
        reads.append(read)
        shutil.rmtree(folder)
        if sides.nix:
            added: list[str] = []
            nix = sides.nix
            nix_adds.append(timed(lambda added=added, nix=nix: added.append(nix.add(Path(tree)))))  # type: ignore[misc]
            nix.delete(added[0].strip())
    peer = Timing(tuple(nix_adds)) if nix_adds else None
    yield Row("store import of zig", Timing(tuple(imports)), peer, "nix-store --add", "1.0 ×, then 0.7 ×")
    baseline = Timing(tuple(reads))
    yield Row(
        "store verify of zig", Timing(tuple(verifies)), baseline, "reading + BLAKE3, one thread", "1.2 × on all cores"
    )


_REAL = "mmojo-server.linux-x86_64"
_FOLDERS = {"levels": "recipes/mmojo-server/cmake", "guard": "recipes/lib/guard"}
# The phases from here on take no time. The plain build skips them, because they write to /forge/out by name.
_LAST_PHASE = "printf 'forge-phase: %s\\n' 'info'"
_REAL_INPUTS = {
    "zig": "zig",
    "cmake": "cmake",
    "ninja": "ninja",
    "source": "llama-cpp",
    "openssl": "openssl.linux-x86_64",
}


def real(sides: Sides) -> Iterator[Row]:
    """llama-server with three CPU levels: in the sandbox, and the same shell script in plain folders without one."""
    environment = {**os.environ, "FORGE_STORE": str(sides.scratch / "real-store")}
    forge = REPOSITORY / "forge"

    def ask(*arguments: str) -> str:
        return run([forge, *arguments], environment, REPOSITORY)

    places = dict(zip(_REAL_INPUTS, ask("realize", "-q", "--no-link", *_REAL_INPUTS.values()).split(), strict=True))
    ask("realize", "-q", "--no-link", "userland")
    ours = timed(lambda: ask("realize", "-q", "--no-link", _REAL))
    document = json.loads(ask("show", "--json", _REAL))["document"]
    work = sides.scratch / "plain"
    replaced = {"/forge/out": work / "out", "/build": work / "build"}
    replaced |= {f"/forge/{name}": REPOSITORY / folder for name, folder in _FOLDERS.items()}
    replaced |= {f"/forge/{name}": Path(place) for name, place in places.items()}

    def plain(text: str) -> str:
        for inside, outside in replaced.items():
            text = text.replace(inside, str(outside))
        return text.partition(_LAST_PHASE)[0]

    (work / "build" / "home").mkdir(parents=True)
    (work / "out").mkdir()
    variables = {name: plain(value) for name, value in document["env"].items()}
    variables |= {"PATH": "/usr/bin:/bin", "HOME": str(work / "build" / "home"), "SOURCE_DATE_EPOCH": "1"}
    variables["FORGE_JOBS"] = str(os.cpu_count() or 1)
    command = ["bash", *(plain(argument) for argument in document["args"])]
    theirs = timed(lambda: run(command, variables, work / "build"))
    yield Row("llama-server, 3 CPU levels", Timing((ours,)), Timing((theirs,)), "plain cmake + ninja", "1.03 ×")


def cache(sides: Sides) -> Iterator[Row]:
    """Push and pull, against `nix copy` and `tar | zstd`."""
    yield from caches.cache(sides.scratch, sides.nix, quick=sides.quick)


CASES: Mapping[str, Callable[[Sides], Iterator[Row]]] = MappingProxyType(
    {"noop": noop, "trivial": trivial, "plan": plan, "store": store, "cache": cache, "real": real}
)
