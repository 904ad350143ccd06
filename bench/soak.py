"""`python -m bench soak [--kills N] [--rounds N]`: run many processes on one store, and kill some at random.

    crowd   In each round, eight `forge realize` of overlapping graphs run at once, while a collector runs repeatedly.
            Every build must happen once, every result must be there, and the collector must remove old rounds.
    kills   SIGKILL ends `forge realize`, `store gc`, `store import`, `cache push` and `cache pull` at random moments.
            After each, the store must verify clean, and linked results must be intact. A second push must complete a
            killed one, so that a pull into an empty store works. A second pull must complete a killed one.

It uses only a scratch folder, and stops by itself. The test suite runs the same with small numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bench.caches import remove
from bench.forge import ForgeSide
from mmojo_forge.store.local import LocalStore
from mmojo_forge.store.maintain.gc import GcPolicy
from mmojo_forge.store.scratch import processes as processes_of

WIDTH = 8
DEPTH = 3
_LIMIT_SECONDS = 600

RECIPES = """
from mmojo_forge.recipe import Package, Spec, recipe

BUSYBOX = "/forge/busybox/bin/busybox"


@recipe("mesh")
def mesh(busybox: Package, *, level: int = 0, column: int = 0, salt: str = ""):
    \"\"\"A node that needs two of the level below: neighbours share most of what is below them.\"\"\"
    inputs = {"busybox": busybox}
    for side in (0, 1) if level else ():
        below = Package("mesh").with_options(level=level - 1, column=(column + side) % WIDTH, salt=salt)
        inputs[f"below-{side}"] = below
    script = f"cd /forge/out; mkdir out; cd out; echo {column} {salt} > own; echo same > same; echo {salt} > salt"
    return Spec(f"mesh-{level}-{column}-{salt}", BUSYBOX, ("sh", "-euc", script), inputs)


@recipe("mesh.files")
def files(busybox: Package, *, salt: str = ""):
    \"\"\"Many small files.\"\"\"
    script = f"mkdir /forge/out/out; cd /forge/out/out; for i in $(seq 300); do echo $i {salt} > $i; done"
    return Spec("files", BUSYBOX, ("sh", "-euc", script), {"busybox": busybox})
"""

TARGET = """

@recipe("mesh.top{column}")
def top{column}(*, salt: str = ""):
    inputs = {{"mesh": Package("mesh").with_options(level={depth}, column={column}, salt=salt)}}
    inputs["busybox"] = Package("busybox")
    return Spec("top{column}-" + salt, BUSYBOX, ("sh", "-euc", "cat /forge/mesh/* > /forge/out/out"), inputs)
"""

# Everything is imported before the time to the kill starts. Otherwise most kills would hit Python's own start.
PREPARED = """
import sys
from mmojo_forge.cli import command_tree
from mmojo_forge.cli.cache import push
from mmojo_forge.cli.store import gc, transfer
from mmojo_forge.cli.target import realize
from mmojo_forge.engine import session
from mmojo_forge.executor import bubblewrap
print("ready", flush=True)
sys.stdin.readline()
sys.exit(command_tree.run(sys.argv[1:]))
"""


class SoakError(Exception):
    """A condition that must hold does not."""


@dataclass(slots=True)
class Figures:
    """Counts of what the soak did and saw."""

    builds: int = 0
    collections: int = 0
    collected: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    too_late: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        late = sum(self.too_late.values())
        parts = [
            f"{self.builds} builds, none twice" if self.builds else "",
            f"{self.collections} collections of {self.collected} trees" if self.collections else "",
            f"{sum(self.kills.values())} kills ({killed}; {late} more had ended before)" if self.kills else "",
            f"{self.seconds:.0f} s",
        ]
        return "; ".join(part for part in parts if part)


class Soak:
    """A workspace with busybox, whose store the processes share. Its methods raise SoakError if a condition fails."""

    def __init__(self, root: Path, environment: Mapping[str, str], seed: int = 0) -> None:
        self.root = root
        self.store = Path(environment.get("FORGE_STORE") or root / "store")
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._chance = random.Random(seed)
        folder = root / "recipes" / "mesh"
        folder.mkdir(parents=True, exist_ok=True)
        text = RECIPES + "".join(TARGET.format(column=column, depth=DEPTH - 1) for column in range(WIDTH))
        (folder / "recipe.py").write_text(text.replace("WIDTH", str(WIDTH)))
        self.run("realize", "-q", "busybox")

    def start(self, *arguments: str, script: str = "", store: Path | None = None) -> subprocess.Popen[str]:
        """Start a `forge` process in the workspace, on its store or on another one."""
        environment = {**self._environment, **({"FORGE_STORE": str(store)} if store else {})}
        command = [sys.executable, *(["-c", script] if script else ["-m", "mmojo_forge"]), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str, store: Path | None = None) -> str:
        """What a `forge` process prints; raises SoakError if it fails."""
        return _finish(self.start(*arguments, store=store))

    def verify(self, when: str, place: Path | None = None) -> None:
        """Raise SoakError unless the store is intact."""
        with LocalStore.open(place or self.store) as store:
            findings = store.verify().findings
            store._added = False
        if findings:
            raise SoakError(f"{when}: {findings}")

    def crowd(self, rounds: int = 2, processes: int = WIDTH) -> Figures:
        """Run rounds of processes that realise overlapping graphs while a collector removes what older rounds left.

        In the last round, what the processes are about to use is old and has no link, so that they race the collector.
        """
        figures = Figures()
        begun = time.monotonic()
        for number in range(rounds):
            self._round(f"s{number}", processes, GcPolicy(0, keep_closure=True), figures)
        figures.builds = self._built_once()
        figures.collected += len(json.loads(self.run("store", "gc", "--older-than", "0", "--json"))["trees"])
        if not figures.collected:
            raise SoakError("the collector removed nothing")
        self._round("race", processes, GcPolicy(0, keep_closure=True), figures)
        for link in (self.root / "out").glob("mesh.*"):
            link.unlink()
        with LocalStore.open(self.store) as store, store._database.transaction() as connection:
            connection.execute("UPDATE trees SET used = 1")
        self._round("race", processes, GcPolicy(0), figures, race=True)
        self.verify("after the crowd")
        figures.seconds = time.monotonic() - begun
        return figures

    def _round(self, salt: str, processes: int, policy: GcPolicy, figures: Figures, *, race: bool = False) -> None:
        before = self._processes()
        running = [
            self.start("realize", "-q", f"mesh.top{column}", "--set", f"salt={salt}") for column in range(processes)
        ]
        while race and self._processes() <= before and running[0].poll() is None:
            time.sleep(0.001)
        waiting = time.monotonic()
        while any(process.poll() is None for process in running):
            with LocalStore.open(self.store) as store:
                figures.collected += len(store.maintenance.collect(policy, time.time()).victims)
            figures.collections += 1
            time.sleep(0.02)
            if time.monotonic() - waiting > _LIMIT_SECONDS:
                raise SoakError("the processes wait for each other")
        outputs = {_finish(process) for process in running}
        if len(outputs) != processes:
            raise SoakError(f"{processes} results must differ: {outputs}")
        for column in range(processes):
            if f"{column} {salt}" not in (self.root / "out" / f"mesh.top{column}").read_text():
                raise SoakError(f"mesh.top{column} is not what was built")

    def kill(self, kills: int = 20) -> Figures:
        """Kill processes at random moments."""
        figures = Figures()
        begun = time.monotonic()
        file = self.root / "bundle"
        self.run("realize", "-q", "mesh.files")
        self.run("store", "export", "mesh.files", "--closure", "-o", str(file))
        linked = self.root / "out" / "mesh.files"
        kept = _read(linked)
        durations = dict.fromkeys(("realize", "gc", "import", "push", "pull"), 0.0)
        good, empty = self.root / "good-cache", self.root / "other-store"
        self.run("cache", "push", "-q", "--to", str(good), "mesh.files")
        for number in range(kills + len(durations)):
            name = tuple(durations)[number % len(durations)]
            place = self.root / f"cache-{number}"
            commands = {
                "realize": ("realize", "-q", "--no-link", "mesh.files", "--set", f"salt={number}"),
                "gc": ("store", "gc", "--older-than", "0", "--keep-closure"),
                "import": ("store", "import", str(file)),
                "push": ("cache", "push", "-q", "--to", str(place), "--closure", "mesh.files"),
                "pull": ("cache", "pull", "-q", "--no-link", "--from", str(good), "mesh.files"),
            }
            self._kill_once(name, commands[name], durations, figures, empty if name == "pull" else None)
            self.verify(f"after kill {number} of {name}")
            if name == "push":
                self.run(*commands[name])
                self._pull_from(place, empty)
            elif name == "pull":
                self.verify(f"after kill {number} of {name}", empty)
                self._pull_from(good, empty)
            if _read(linked) != kept:
                raise SoakError("the linked result is damaged")
        figures.seconds = time.monotonic() - begun
        return figures

    def _pull_from(self, cache: Path, store: Path) -> None:
        """Check that a pull from the cache into an empty store gives what is linked here; remove the store afterwards.

        The cache is removed as well, unless later kills need it.
        """
        pulled = self.run("cache", "pull", "-q", "--no-link", "--from", str(cache), "mesh.files", store=store)
        if _read(Path(pulled.strip())) != _read(self.root / "out" / "mesh.files"):
            raise SoakError(f"what was pulled from {cache} differs from what was pushed")
        self.verify(f"after a pull from {cache}", store)
        remove(store)
        if cache.name != "good-cache":
            remove(cache)

    def _kill_once(
        self,
        name: str,
        command: tuple[str, ...],
        durations: dict[str, float],
        figures: Figures,
        store: Path | None,
    ) -> None:
        with self.start(*command, script=PREPARED, store=store) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SoakError(f"{name} did not start: {process.communicate()[1]}")
            going = time.monotonic()
            process.stdin.write("go\n")
            process.stdin.flush()
            try:
                # The first run is not killed: it tells how long the command takes.
                process.wait(self._chance.uniform(0, durations[name]) if durations[name] else _LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                figures.kills[name] += 1
            else:
                if process.returncode != 0:
                    raise SoakError(f"{name} failed: {process.communicate()[1]}")
                figures.too_late[name] += bool(durations[name])
                durations[name] = time.monotonic() - going

    def _processes(self) -> set[str]:
        return {name for name, _ in processes_of(str(self.store / "tmp"))}

    def _built_once(self) -> int:
        """How many builds there were. The store notes an observation for each."""
        with closing(sqlite3.connect(f"file:{self.store}/db.sqlite?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT name, count(*) FROM observations WHERE name LIKE 'mesh-%' OR name LIKE 'top%' GROUP BY name"
            ).fetchall()
        twice = [name for name, count in rows if count != 1]
        if twice:
            raise SoakError(f"built more than once: {twice}")
        return len(rows)


def _read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def _finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=_LIMIT_SECONDS)
    if process.returncode != 0:
        raise SoakError(f"{process.args!r} ended with {process.returncode}:\n{out}\n{err}")
    return out


def main(argv: list[str]) -> None:
    """Run both parts, and print their figures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="kills (200)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of eight processes (10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed for the moments of the kills (0)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="forge-soak-", ignore_cleanup_errors=True) as scratch:
        side = ForgeSide(Path(scratch))
        soak = Soak(side.root, side.environment, arguments.seed)
        print(f"crowd: {soak.crowd(arguments.rounds)}", flush=True)
        print(f"kills: {soak.kill(arguments.kills)}", flush=True)
