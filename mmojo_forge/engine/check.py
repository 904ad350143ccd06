"""`forge check`: build again, with everything varied that must not matter, and compare.

1. The nodes to check are made valid as usual: that is what the rebuild is compared with.
2. A second store is opened elsewhere, on another file system if one has room, which makes files in another order.
3. Each node is built there from the same inputs, in surroundings where every aspect is another one (variation.py), by
   the very code that builds otherwise. One rebuild varies all aspects at once: a build that comes out the same depends
   on none of them.
4. Outputs are compared by their trees. To tell which aspect a difference comes from, `isolate` builds with none
   varied, and once for each. If the place alone makes a difference, there is a second rebuild with none varied: one
   that differs again is unstable.
"""

from __future__ import annotations

import select
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from mmojo_forge.engine.build import Builder, object_name
from mmojo_forge.engine.difference import Difference, compare_trees
from mmojo_forge.engine.errors import Interrupted
from mmojo_forge.engine.plan import Action, Resolution, Step, input_trees
from mmojo_forge.engine.realise import Stop
from mmojo_forge.engine.settings import Places, World
from mmojo_forge.engine.variation import INHERENT, Aspect, Scene, Variation
from mmojo_forge.errors import ForgeError
from mmojo_forge.executor.surroundings import SurroundedExecutor
from mmojo_forge.model.derivation import Derivation, action_key
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.tree import Entry, Kind
from mmojo_forge.store.protocol import Store
from mmojo_forge.store.scratch import remove_tree

Resolutions = Mapping[DerivationId, Resolution]
"""The trees of each output of derivations."""

# So long that a clock of seconds does not stand still between two rebuilds.
_TICK = 1.1


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """One output: the tree it has, the tree that the rebuild gave, and where they differ."""

    name: str
    expected: TreeId
    got: TreeId
    differences: tuple[Difference, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether both are the same, byte for byte."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one node. `failure` is why it could not be rebuilt; `causes` the aspects that alone make a
    difference, where that was looked into, or if there is none, those that come with the place; `unstable` that it
    differs even when nothing is varied."""

    node: Derivation
    key: ActionKey
    outputs: tuple[OutputVerdict, ...]
    seconds: float
    failure: ForgeError | None = None
    causes: tuple[Aspect, ...] = ()
    unstable: bool = False
    kept: Path | None = None

    @property
    def identical(self) -> bool:
        """Whether every output came out as it was."""
        return self.failure is None and all(output.identical for output in self.outputs)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All that a check found: what was varied, a verdict for each node in the order of the graph, and the trees that
    the nodes and their inputs have."""

    variations: tuple[Variation, ...]
    verdicts: tuple[Verdict, ...]
    resolved: Resolutions

    @property
    def identical(self) -> bool:
        """Whether everything came out as it was."""
        return all(verdict.identical for verdict in self.verdicts)


class Checker:
    """Rebuilds nodes of the world's store in stores elsewhere: `shuffled`, which makes files in another order, and
    `plain` where that is not to be varied."""

    def __init__(self, world: World, shuffled: Store, plain: Store, scene: Scene, kept: Path, *, isolate: bool) -> None:
        self._world = world
        self._shuffled = shuffled
        self._plain = plain
        self._scene = scene
        self._kept = kept
        self._isolate = isolate
        self._cpus: SimpleQueue[int] = SimpleQueue()
        for cpu in scene.cpus:
            self._cpus.put(cpu)

    def check(self, nodes: Sequence[Derivation], resolved: Resolutions, active: frozenset[Aspect]) -> list[Verdict]:
        """A verdict for each node; `resolved` has the trees of all of them and of their inputs. Raises Interrupted."""
        stop = Stop()
        with ExitStack() as stack:
            stack.callback(stop.close)
            workers = ThreadPoolExecutor(min(len(self._scene.cpus), self._scene.jobs), "forge-check")
            stack.callback(workers.shutdown, wait=True, cancel_futures=True)
            stack.callback(stop.ask)
            try:
                futures = [workers.submit(self._verdict, node, resolved, active, stop) for node in nodes]
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                raise Interrupted("check: interrupted", reason="interrupted") from None

    def _verdict(self, node: Derivation, resolved: Resolutions, active: frozenset[Aspect], stop: Stop) -> Verdict:
        trees = input_trees(node, resolved)
        assert trees is not None
        key = action_key(node.preimage(trees))
        started = self._world.clock()
        step = Step(node, Action.BUILD)
        self._world.reporter.started(step)
        try:
            got = self._rebuild(node, trees, active, stop)
            outputs = self._compare(node, resolved[node.id], got, self._store(active))
            verdict = Verdict(node, key, outputs, self._world.clock() - started)
            if not verdict.identical:
                verdict = replace(verdict, kept=self._keep(verdict, self._store(active)))
                if self._isolate:
                    verdict = self._find_causes(verdict, resolved[node.id], trees, active, stop)
        except ForgeError as error:
            if stop.asked:
                raise
            verdict = Verdict(node, key, (), self._world.clock() - started, failure=error)
        if verdict.identical:
            self._world.reporter.finished(node, verdict.seconds)
        else:
            self._world.reporter.failed(node, "differs", "it came out differently")
        return verdict

    def _store(self, active: frozenset[Aspect]) -> Store:
        return self._shuffled if Aspect.ORDER in active else self._plain

    def _bring(self, trees: dict[str, TreeId], other: Store) -> None:
        """Have a node's inputs in the other store: copied, for it lies elsewhere."""
        for tree in sorted(set(trees.values())):
            with other.lock(f"bring-{tree}"):
                if not other.has_tree(tree):
                    other.add_tree(self._world.store.read_tree(tree), self._open)

    def _open(self, entry: Entry) -> AbstractContextManager[BinaryIO]:
        assert entry.digest is not None
        return self._world.store.open_blob(entry.digest, executable=entry.kind is Kind.EXECUTABLE)

    def _rebuild(self, node: Derivation, trees: dict[str, TreeId], active: Iterable[Aspect], stop: Stop) -> Resolution:
        active = frozenset(active)
        other = self._store(active)
        self._bring(trees, other)
        cpu = self._cpus.get()
        try:
            executor = SurroundedExecutor(self._scene.surroundings(active, cpu))
            places = Places(self._scene.files / "downloads", self._scene.files / "failed")
            world = replace(self._world, store=other, executor=lambda: executor, places=places)
            jobs = self._scene.jobs if node.parallel and Aspect.PARALLELISM not in active else 1
            return Builder(world, stop).rebuild(node, trees, jobs)
        finally:
            self._cpus.put(cpu)

    def _compare(
        self, node: Derivation, expected: Resolution, got: Resolution, other: Store
    ) -> tuple[OutputVerdict, ...]:
        return tuple(self._compare_output(node, name, expected[name], got[name], other) for name in node.outputs)

    def _compare_output(
        self, node: Derivation, name: str, expected: TreeId, got: TreeId, other: Store
    ) -> OutputVerdict:
        if expected == got:
            return OutputVerdict(name, expected, got)
        shown = object_name(node.name, name)
        differences = compare_trees(
            self._world.store.read_tree(expected),
            self._world.store.checkout(expected, shown),
            other.read_tree(got),
            other.checkout(got, shown),
        )
        return OutputVerdict(name, expected, got, tuple(differences))

    def _keep(self, verdict: Verdict, other: Store) -> Path:
        """Copy what came out differently to where it can be looked at afterwards."""
        kept = self._kept / verdict.node.name
        self._kept.mkdir(exist_ok=True)
        remove_tree(str(self._kept), kept.name)
        for output in verdict.outputs:
            if not output.identical:
                source = other.checkout(output.got, object_name(verdict.node.name, output.name))
                kept.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, kept / output.name, symlinks=True)
                else:
                    shutil.copy2(source, kept / output.name)
        return kept

    def _find_causes(
        self,
        verdict: Verdict,
        expected: Resolution,
        trees: dict[str, TreeId],
        active: frozenset[Aspect],
        stop: Stop,
    ) -> Verdict:
        usual = dict(self._rebuild(verdict.node, trees, (), stop))
        if usual != dict(expected):
            select.select([stop], [], [], _TICK)
            if dict(self._rebuild(verdict.node, trees, (), stop)) != usual:
                return replace(verdict, unstable=True)
        causes = tuple(
            aspect
            for aspect in sorted(active - INHERENT)
            if dict(self._rebuild(verdict.node, trees, (aspect,), stop)) != usual
        )
        if usual != dict(expected) and not causes:
            causes = tuple(sorted(active & INHERENT))
        return replace(verdict, causes=causes)
