"""Realising a plan: make the roots valid, building as little as the build trace allows.

Every node is in exactly one BuildState (state.py). The main thread alone changes states; workers fetch and build.

1. A root is *wanted*. If its trees are known and present it is VALID; if known but absent, or known to be new, its
   inputs are wanted in turn and it is WAITING; if its key cannot be known yet it is RESOLVING.
2. When the last unknown input of a RESOLVING node is resolved, its action key is looked up in the trace: a hit is
   early cutoff, nothing below it is wanted on its account; a miss makes it WAITING.
3. When the last input of a WAITING node is VALID it is READY; the schedule starts it when cores and memory allow.
4. A failure blocks what needs the node. Without `keep_going` nothing new is started.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from mmojo_forge.engine.build import Builder
from mmojo_forge.engine.errors import BuildsFailed, Failure, Interrupted
from mmojo_forge.engine.graph import inputs_of
from mmojo_forge.engine.plan import Action, Plan, Resolution, Step, input_trees
from mmojo_forge.engine.schedule import Budget, Grant, Schedule, remaining_paths
from mmojo_forge.engine.settings import Settings, World
from mmojo_forge.engine.state import BuildState, check_transition
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Derivation, Node, Source, action_key, node_id
from mmojo_forge.model.digest import DerivationId, TreeId

_S = BuildState
_BROKEN = (_S.FAILED, _S.BLOCKED, _S.CANCELLED)


@dataclass(slots=True)
class _Job:
    """One node of the run: its state, whether its content is wanted, and the ids of the inputs it waits for."""

    node: Node
    state: BuildState = _S.UNWANTED
    wanted: bool = False
    awaited: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Stop:
    """Tells every running build to stop: a pipe whose read end becomes readable."""

    _pipe: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_CLOEXEC))
    asked: bool = False

    def fileno(self) -> int:
        """The read end; it becomes readable, for everyone at once, when the write end is closed."""
        return self._pipe[0]

    def ask(self) -> None:
        """Stop everything; may be called more than once."""
        if not self.asked:
            self.asked = True
            os.close(self._pipe[1])

    def close(self) -> None:
        """Release the descriptors."""
        self.ask()
        os.close(self._pipe[0])


class Realisation:
    """One run over one plan. Use once."""

    def __init__(self, plan: Plan, world: World, settings: Settings) -> None:
        self._plan = plan
        self._world = world
        self._settings = settings
        self._resolved: dict[DerivationId, Resolution] = dict(plan.resolved)
        self._valid: set[TreeId] = set(plan.valid)
        self._jobs = {identifier: _Job(node) for identifier, node in plan.graph.nodes.items()}
        self._todo: deque[tuple[Callable[[_Job], None], _Job]] = deque()
        self._failures: list[Failure] = []
        self._done: SimpleQueue[tuple[_Job, Grant, Future[Resolution | None]]] = SimpleQueue()
        self._running = 0
        names = {step.node.name: step for step in plan.steps}
        history = world.store.history(names)
        self._schedule = Schedule(
            Budget(settings.jobs, settings.memory_bytes),
            remaining_paths(plan.graph, {name: seen.seconds for name, seen in history.items()}),
            {name: seen.peak_memory_bytes for name, seen in history.items()},
        )

    def run(self) -> dict[DerivationId, Resolution]:
        """The trees of all derivations that were resolved; raises BuildsFailed or Interrupted."""
        stop = Stop()
        workers = ThreadPoolExecutor(self._settings.jobs + self._schedule.budget.fetches, "forge")
        builder = Builder(self._world, stop)
        try:
            for root in self._plan.graph.roots:
                self._later(self._want, self._jobs[root])
            self._loop(workers, builder)
        except KeyboardInterrupt:
            stop.ask()
            if any(job.state is _S.RUNNING and isinstance(job.node, Source) for job in self._jobs.values()):
                self._world.fetcher().cancel()
            raise Interrupted(
                "realise: interrupted",
                detail="What was built is kept; the next run goes on from there.",
                reason="interrupted",
            ) from None
        finally:
            stop.ask()
            workers.shutdown(wait=True, cancel_futures=True)
            stop.close()
        if self._failures:
            raise BuildsFailed(tuple(self._failures), self._names_in(_S.BLOCKED))
        return self._resolved

    def _names_in(self, state: BuildState) -> tuple[str, ...]:
        return tuple(job.node.name for job in self._jobs.values() if job.state is state)

    def _loop(self, workers: ThreadPoolExecutor, builder: Builder) -> None:
        self._settle()
        while self._start_what_fits(workers, builder) or self._running:
            job, grant, future = self._done.get()
            self._running -= 1
            self._schedule.give_back(grant)
            self._finish(job, future)
            self._settle()

    def _start_what_fits(self, workers: ThreadPoolExecutor, builder: Builder) -> bool:
        if self._failures and not self._settings.keep_going:
            return False
        started = False
        while taken := self._schedule.take():
            node, grant = taken
            job = self._jobs[node_id(node)]
            self._move(job, _S.RUNNING)
            self._running += 1
            started = True
            future = workers.submit(builder.make, _step(node), self._trees_below(node), grant.jobs)
            future.add_done_callback(lambda done, job=job, grant=grant: self._done.put((job, grant, done)))  # type: ignore[misc]
        return started

    def _trees_below(self, node: Node) -> dict[str, TreeId]:
        return (input_trees(node, self._resolved) or {}) if isinstance(node, Derivation) else {}

    def _finish(self, job: _Job, future: Future[Resolution | None]) -> None:
        error = future.exception()
        if error is None:
            outputs = future.result()
            if isinstance(job.node, Derivation) and outputs is not None:
                self._resolved[job.node.id] = outputs
                self._valid.update(outputs.values())
            elif not isinstance(job.node, Derivation):
                self._valid.add(job.node.tree)
            self._move(job, _S.VALID)
            self._later(self._tell_users_resolved, job)
            self._later(self._tell_users_valid, job)
        elif isinstance(error, ForgeError):
            self._fail(job, builder_failure(job.node, error))
        else:
            raise error

    def _fail(self, job: _Job, failure: Failure) -> None:
        self._move(job, _S.FAILED)
        self._failures.append(failure)
        self._world.reporter.failed(job.node, failure.reason, failure.message)
        self._later(self._block_users, job)

    # What follows runs on the worklist, one small step at a time: graphs are deeper than Python's stack.

    def _later(self, action: Callable[[_Job], None], job: _Job) -> None:
        self._todo.append((action, job))

    def _settle(self) -> None:
        while self._todo:
            action, job = self._todo.popleft()
            action(job)

    def _move(self, job: _Job, state: BuildState) -> None:
        check_transition(job.state, state)
        job.state = state

    def _want(self, job: _Job) -> None:
        job.wanted = True
        if job.state not in (_S.UNWANTED, _S.RESOLVED):
            return
        if isinstance(job.node, Derivation) and job.node.id not in self._resolved:
            self._resolve(job)
        elif self._is_present(job.node):
            self._move(job, _S.VALID)
            self._later(self._tell_users_valid, job)
        else:
            self._await_inputs(job)

    def _is_present(self, node: Node) -> bool:
        trees = tuple(self._resolved[node.id].values()) if isinstance(node, Derivation) else (node.tree,)
        unknown = [tree for tree in trees if tree not in self._valid]
        if unknown:
            self._valid.update(self._world.store.valid_trees(unknown))
        return all(tree in self._valid for tree in trees)

    def _resolve(self, job: _Job) -> None:
        """Find out the node's key: at once if its inputs are resolved, else when they are."""
        if job.state is not _S.UNWANTED:
            return
        unknown = [child for child in self._children(job) if self._is_unknown(child.node)]
        self._move(job, _S.RESOLVING)
        job.awaited = {node_id(child.node) for child in unknown}
        for child in unknown:
            self._later(self._resolve, child)
        if not unknown:
            self._later(self._look_up, job)

    def _children(self, job: _Job) -> list[_Job]:
        return list({node_id(child): self._jobs[node_id(child)] for child in inputs_of(job.node)}.values())

    def _is_unknown(self, node: Node) -> bool:
        return isinstance(node, Derivation) and node.id not in self._resolved

    def _look_up(self, job: _Job) -> None:
        node = job.node
        assert isinstance(node, Derivation)
        trees = input_trees(node, self._resolved)
        assert trees is not None
        key = action_key(node.preimage(trees))
        trace = self._world.store.lookup([key]).get(key)
        if trace is None:
            self._await_inputs(job)
            return
        self._resolved[node.id] = {name: output.tree for name, output in trace.outputs.items()}
        self._world.store.record_resolved({node.id: self._resolved[node.id]})
        self._move(job, _S.RESOLVED)
        self._world.reporter.finished(node, 0.0, unchanged=True)
        self._later(self._tell_users_resolved, job)
        if job.wanted:
            self._later(self._want, job)

    def _await_inputs(self, job: _Job) -> None:
        children = self._children(job)
        if any(child.state in _BROKEN for child in children):
            self._move(job, _S.BLOCKED)
            self._later(self._block_users, job)
            return
        absent = [child for child in children if child.state is not _S.VALID]
        if not absent:
            self._make_ready(job)
            return
        self._move(job, _S.WAITING)
        job.awaited = {node_id(child.node) for child in absent}
        for child in absent:
            self._later(self._want, child)

    def _make_ready(self, job: _Job) -> None:
        self._move(job, _S.READY)
        self._schedule.add(job.node)

    def _users(self, job: _Job) -> list[_Job]:
        return [self._jobs[user] for user in self._plan.graph.users[node_id(job.node)]]

    def _tell_users_resolved(self, job: _Job) -> None:
        if not isinstance(job.node, Derivation):
            return
        for user in self._users(job):
            if user.state is _S.RESOLVING and self._was_last(user, job):
                self._later(self._look_up, user)

    def _tell_users_valid(self, job: _Job) -> None:
        for user in self._users(job):
            if user.state is _S.WAITING and self._was_last(user, job):
                self._make_ready(user)

    def _was_last(self, user: _Job, job: _Job) -> bool:
        """Strike `job` off what `user` waits for; true if it was the last. Being told twice does no harm."""
        identifier = node_id(job.node)
        if identifier not in user.awaited:
            return False
        user.awaited.discard(identifier)
        return not user.awaited

    def _block_users(self, job: _Job) -> None:
        for user in self._users(job):
            if user.state in (_S.RESOLVING, _S.WAITING):
                self._move(user, _S.BLOCKED)
                self._later(self._block_users, user)


def _step(node: Node) -> Step:
    if isinstance(node, Derivation):
        return Step(node, Action.BUILD)
    return Step(node, Action.FETCH if isinstance(node, Source) else Action.IMPORT)


def builder_failure(node: Node, error: ForgeError) -> Failure:
    """The failure that an error of a worker amounts to."""
    failure = getattr(error, "failure", None)
    if isinstance(failure, Failure):
        return failure
    return Failure(node.name, error.message, error.reason, error.detail, exit_code=error.exit_code)
