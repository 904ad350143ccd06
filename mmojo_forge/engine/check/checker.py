"""Rebuilds nodes with everything varied that must not matter, and compares the outputs.

1. The nodes to check are made valid as usual. The rebuild is compared with these results.
2. A second store is opened elsewhere, on another file system if one has room. It creates files in another order.
3. Each node is built there from the same inputs, by the same `Builder`, in a varied host environment (variations.py).
   One rebuild varies all aspects at once: if the output is the same, the build depends on none of them.
4. The output trees are compared. `bisect.py` finds which aspects cause a difference or a failure.

A rebuild that fails because of the build is a finding. One that fails because of the machine gives no verdict.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from mmojo_forge.engine.check.bisect import Cause, find_cause
from mmojo_forge.engine.check.variations import Variation, VariationContext, varied_in
from mmojo_forge.engine.difference import Difference, compare_trees
from mmojo_forge.engine.errors import EngineError, Interrupted
from mmojo_forge.engine.plan import Action, Resolution, Step, input_trees
from mmojo_forge.engine.realise.builder import Builder, BuildFailed, object_name
from mmojo_forge.engine.realise.worker_pool import CancelToken
from mmojo_forge.engine.services import Directories, Services
from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.executor.host_environment import VariedExecutor
from mmojo_forge.model.derivation import Aspect, Derivation, action_key
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.tree import EntryKind, TreeEntry
from mmojo_forge.store.protocol import Store, StoreError
from mmojo_forge.store.scratch import remove_tree

Resolutions = Mapping[DerivationId, Resolution]
"""The output trees of each derivation."""

BUILD_LOG = "build.log"
"""The file name of a failed rebuild's log, in the folder that keeps it."""

# More than a second, so that a clock in seconds advances between two rebuilds.
_TICK_MILLISECONDS = 1100
_ID_LENGTH = 12
# With fewer bytes free, a failed rebuild is blamed on the full disk instead of on the build.
_NO_ROOM = 32 << 20


class CheckError(EngineError):
    """This machine cannot do the rebuild. That says nothing about the build itself."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """One output: its tree, the tree of the rebuild, and where they differ."""

    name: str
    expected: TreeId
    got: TreeId
    differences: tuple[Difference, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether both trees are the same, byte for byte."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """The outcome for one node. `varied` has the aspects that differed, without the recipe's check exemptions.

    `failure` is the reason why the node could not be rebuilt. `cause` is the result of a bisection. `kept` is the
    folder with the differing outputs or the log.
    """

    node: Derivation
    key: ActionKey
    varied: frozenset[Aspect]
    outputs: tuple[OutputVerdict, ...] = ()
    seconds: float = 0.0
    failure: ForgeError | None = None
    cause: Cause | None = None
    kept: Path | None = None

    @property
    def identical(self) -> bool:
        """Whether every output of the rebuild is identical."""
        return self.failure is None and bool(self.outputs) and all(output.identical for output in self.outputs)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check: the variations, a verdict for each node in the order of the graph, and the trees of the
    nodes and their inputs (`resolved`)."""

    variations: tuple[Variation, ...]
    verdicts: tuple[CheckVerdict, ...]
    resolved: Resolutions

    @property
    def identical(self) -> bool:
        """Whether every node is identical."""
        return all(verdict.identical for verdict in self.verdicts)

    def check_exemptions(self, aspect: Aspect) -> dict[str, tuple[str, ...]]:
        """The names of the nodes whose recipes exempt the aspect, by the recipe's reason."""
        found: dict[str, tuple[str, ...]] = {}
        for node in (verdict.node for verdict in self.verdicts if aspect in verdict.node.check_exemptions):
            reason = node.check_exemptions[aspect]
            found[reason] = (*found.get(reason, ()), node.name)
        return found

    @property
    def exit_code(self) -> ExitCode:
        """DONE if everything is identical; otherwise the highest exit code of a failure, or BUILD_FAILED."""
        codes = (verdict.failure.exit_code for verdict in self.verdicts if verdict.failure)
        return ExitCode.DONE if self.identical else max(codes, default=ExitCode.BUILD_FAILED)


@dataclass(frozen=True, slots=True)
class _Task:
    """One node to rebuild: the trees of its inputs by name, its expected output trees, and the token that stops it."""

    node: Derivation
    trees: dict[str, TreeId]
    expected: Resolution
    stop: CancelToken


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """The result of one rebuild, and its store: the tree of each output, or the failure."""

    store: Store
    outputs: Resolution
    failure: ForgeError | None = None


class Checker:
    """Rebuilds nodes in other stores and compares the outputs with those in the services' store.

    `shuffled` is a store that creates files in another order; `plain` is used when the order is not varied. Differing
    outputs are copied to the folder `kept`.
    """

    def __init__(
        self, services: Services, shuffled: Store, plain: Store, context: VariationContext, kept: Path, *, bisect: bool
    ) -> None:
        self._services = services
        self._shuffled = shuffled
        self._plain = plain
        self._context = context
        self._kept = kept
        self._bisect = bisect
        self._cpus: SimpleQueue[int] = SimpleQueue()
        for cpu in context.cpus:
            self._cpus.put(cpu)

    def check(
        self, nodes: Sequence[Derivation], resolved: Resolutions, active: frozenset[Aspect]
    ) -> list[CheckVerdict]:
        """A verdict for each node. `resolved` has the trees of the nodes and their inputs. Raises Interrupted."""
        stop = CancelToken()
        with ExitStack() as stack:
            stack.callback(stop.close)
            workers = ThreadPoolExecutor(min(len(self._context.cpus), self._context.jobs), "forge-check")
            stack.callback(workers.shutdown, wait=True, cancel_futures=True)
            stack.callback(stop.ask)
            try:
                futures = [workers.submit(self._verdict, node, resolved, active, stop) for node in nodes]
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                raise Interrupted(
                    "check: interrupted", detail="The files of the rebuild are removed.", reason="interrupted"
                ) from None

    def _verdict(
        self, node: Derivation, resolved: Resolutions, active: frozenset[Aspect], stop: CancelToken
    ) -> CheckVerdict:
        trees = input_trees(node, resolved)
        assert trees is not None
        # No rebuild varies an exempted aspect, not even to find a cause.
        active = active.difference(node.check_exemptions)
        verdict = CheckVerdict(node, action_key(node.preimage(trees)), varied_in(node, active))
        started = self._services.clock()
        self._services.reporter.started(Step(node, Action.BUILD))
        try:
            verdict = self._judge(verdict, _Task(node, trees, resolved[node.id], stop), active)
        except ForgeError as error:
            if stop.asked:
                raise
            verdict = replace(verdict, failure=error, seconds=self._services.clock() - started)
        if verdict.identical:
            self._services.reporter.finished(node, verdict.seconds)
        elif verdict.failure:
            self._services.reporter.failed(node, verdict.failure.reason, verdict.failure.message)
        else:
            self._services.reporter.failed(node, "differs", f"check {node.name}: the rebuild differs")
        return verdict

    def _judge(self, verdict: CheckVerdict, task: _Task, active: frozenset[Aspect]) -> CheckVerdict:
        started = self._services.clock()
        rebuilt = self._rebuild(task, active)
        if rebuilt.failure is None:
            with self._explained(task.node):
                verdict = replace(verdict, outputs=self._compare(task, rebuilt))
        else:
            verdict = replace(verdict, failure=rebuilt.failure)
        verdict = replace(verdict, seconds=self._services.clock() - started)
        if verdict.identical:
            return verdict
        verdict = replace(verdict, kept=self._keep(verdict, rebuilt.store))
        return replace(verdict, cause=self._find_cause(verdict, task, rebuilt)) if self._bisect else verdict

    def _store(self, active: frozenset[Aspect]) -> Store:
        return self._shuffled if Aspect.ORDER in active else self._plain

    def _bring(self, trees: Iterable[TreeId], other: Store) -> None:
        """Copy a node's inputs to the other store, which may be on another file system."""
        for tree in sorted(set(trees)):
            with other.lock(f"bring-{tree}"):
                if not other.has_tree(tree):
                    other.add_tree(self._services.store.read_tree(tree), self._open)

    def _open(self, entry: TreeEntry) -> AbstractContextManager[BinaryIO]:
        assert entry.digest is not None
        return self._services.store.open_blob(entry.digest, executable=entry.kind is EntryKind.EXECUTABLE)

    def _rebuild(self, task: _Task, active: frozenset[Aspect]) -> _Rebuilt:
        """The result of a rebuild; raises ForgeError if the failure says nothing about the build."""
        node, other = task.node, self._store(active)
        try:
            with self._explained(node):
                self._bring(task.trees.values(), other)
                return _Rebuilt(other, self._build(task, active, other))
        except ForgeError as error:
            if task.stop.asked or error.exit_code is not ExitCode.BUILD_FAILED:
                raise
            return _Rebuilt(other, {}, error)

    @contextmanager
    def _explained(self, node: Derivation) -> Iterator[None]:
        """Turn an OSError into a CheckError (`rebuild-impossible`)."""
        place = self._context.files.parent
        try:
            yield
        except OSError as error:
            raise CheckError(
                f"check {node.name}: rebuild it in {place}: {error.strerror or error}",
                detail="Choose another folder to rebuild in with --scratch.",
                reason="rebuild-impossible",
            ) from error

    def _build(self, task: _Task, active: frozenset[Aspect], other: Store) -> Resolution:
        with ExitStack() as stack:
            # Each rebuild takes a CPU from the queue, so that builds on a single CPU do not share it.
            cpu = self._cpus.get()
            stack.callback(self._cpus.put, cpu)
            # Each build has its own folder, because failed builds are kept by name and two of a name may run at once.
            failed = Path(tempfile.mkdtemp(prefix="failed-", dir=self._context.files))
            stack.callback(remove_tree, str(failed.parent), failed.name)
            executor = VariedExecutor(self._context.host_environment(active, cpu))
            directories = Directories(self._context.files / "downloads", failed)
            services = replace(self._services, store=other, executor=lambda: executor, directories=directories)
            jobs = self._context.jobs if task.node.parallel and Aspect.PARALLELISM not in active else 1
            try:
                return Builder(services, task.stop).rebuild(task.node, task.trees, jobs)
            except BuildFailed as error:
                # The failed build's files still exist, so a full file system shows. It often is one in memory.
                if shutil.disk_usage(failed).free < _NO_ROOM:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise

    def _compare(self, task: _Task, rebuilt: _Rebuilt) -> tuple[OutputVerdict, ...]:
        return tuple(
            self._compare_output(object_name(task.node.name, name), name, task.expected[name], rebuilt)
            for name in task.node.outputs
        )

    def _compare_output(self, shown: str, name: str, expected: TreeId, rebuilt: _Rebuilt) -> OutputVerdict:
        got = rebuilt.outputs[name]
        if expected == got:
            return OutputVerdict(name, expected, got)
        differences = compare_trees(
            self._services.store.read_tree(expected),
            self._services.store.checkout(expected, shown),
            rebuilt.store.read_tree(got),
            rebuilt.store.checkout(got, shown),
        )
        return OutputVerdict(name, expected, got, tuple(differences))

    def _keep(self, verdict: CheckVerdict, other: Store) -> Path | None:
        """Copy the differing outputs, or the log of a failed rebuild, to a folder that outlives the check.

        It replaces the folder of the last check of the same derivation. Returns None, with a warning, on failure.
        """
        node, store = verdict.node, self._services.store
        if verdict.failure and node.is_builtin:
            return None  # builtins have no log
        kept = self._kept / f"{node.name}-{node.id[:_ID_LENGTH]}"
        try:
            # Fill the folder before it gets its final name: collectors and other checks must see only complete ones.
            with store.lock(f"check-{node.id}"), store.scratch(node.name) as scratch:
                whole = scratch / kept.name
                whole.mkdir()
                _copy_findings(verdict, other, whole)
                self._kept.mkdir(exist_ok=True)
                remove_tree(str(self._kept), kept.name)
                whole.rename(kept)
        except (OSError, StoreError) as error:
            self._services.reporter.warning(f"cannot keep the rebuild of {node.name} in {kept}: {error}")
            return None
        return kept

    def _find_cause(self, verdict: CheckVerdict, task: _Task, first: _Rebuilt) -> Cause | None:
        """The cause of a difference or failure; None, with a warning, if this machine cannot complete the search."""
        # After a failure, only success or failure counts: failed rebuilds have no comparable outputs.
        outcome = _whether_built if verdict.failure else _what_came_out

        def rebuild(aspects: frozenset[Aspect]) -> Hashable:
            said = f"forge check: rebuild with {', '.join(sorted(aspects)) or 'nothing'} varied\n"
            self._services.reporter.output(task.node, said.encode())
            return outcome(self._rebuild(task, aspects))

        def pause() -> None:
            poll = select.poll()
            poll.register(task.stop.fileno(), select.POLLIN)
            poll.poll(_TICK_MILLISECONDS)

        try:
            return find_cause(rebuild, outcome(first), verdict.varied, pause)
        except ForgeError as error:
            if task.stop.asked:
                raise
            self._services.reporter.warning(f"cannot find out what {task.node.name} depends on: {error.message}")
            return None


def _what_came_out(rebuilt: _Rebuilt) -> Hashable:
    return tuple(sorted(rebuilt.outputs.items())), rebuilt.failure.reason if rebuilt.failure else ""


def _whether_built(rebuilt: _Rebuilt) -> Hashable:
    return rebuilt.failure is None


def _copy_findings(verdict: CheckVerdict, store: Store, folder: Path) -> None:
    if verdict.failure:
        with store.open_log(verdict.key) as log, (folder / BUILD_LOG).open("wb") as file:
            shutil.copyfileobj(log, file)
    for output in verdict.outputs:
        if not output.identical:
            source = store.checkout(output.got, object_name(verdict.node.name, output.name))
            if source.is_dir():
                shutil.copytree(source, folder / output.name, symlinks=True)
            else:
                shutil.copy2(source, folder / output.name)
