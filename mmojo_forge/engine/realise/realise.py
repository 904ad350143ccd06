"""Realises a plan: makes its roots valid and builds as little as the build trace allows.

Every node is in exactly one BuildState (state.py). Only the main thread changes states; workers fetch and build.

1. The roots are *wanted*. A wanted node becomes
   - VALID, if its trees are known and present;
   - READY, if its trees are known and another store offers them: it will be substituted;
   - WAITING, if it must be built: its inputs are wanted in turn;
   - RESOLVING, if its action key depends on an input that is not resolved yet.
2. When the last unresolved input of a RESOLVING node is resolved, its action key is looked up in the build trace, then
   in other stores. A hit is early cutoff: nothing below is wanted on its account. A miss makes the node WAITING.
3. When the last input of a WAITING node is VALID, the node is READY. The schedule starts it when resources allow.
4. When no other store can deliver an offered node, its inputs are wanted, as if nobody had offered it.
5. A failure blocks every node that needs the failed one. Without `keep_going`, nothing new is started.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NoReturn

from mmojo_forge.engine.errors import BuildsFailed, Failure, Interrupted
from mmojo_forge.engine.graph import inputs_of
from mmojo_forge.engine.plan import Action, Plan, Resolution, Step, input_trees, resolution_of, step_of, substitution
from mmojo_forge.engine.realise.builder import Builder
from mmojo_forge.engine.realise.schedule import Grant, ResourceBudget, Schedule, remaining_paths
from mmojo_forge.engine.realise.state import BuildState, check_transition
from mmojo_forge.engine.realise.worker_pool import WorkerPool
from mmojo_forge.engine.services import Services, Settings
from mmojo_forge.engine.trust.policy import describe
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Derivation, Node, action_key, fetched_file
from mmojo_forge.model.digest import ActionKey, DerivationId, TreeId
from mmojo_forge.model.trace import Trace

_S = BuildState
_BROKEN = (_S.FAILED, _S.BLOCKED, _S.CANCELLED)


@dataclass(slots=True)
class _Job:
    """One node of the run: its state, whether its content is wanted, and the ids of the inputs it waits for.

    `substituted` means that it is fetched from another store. `refused` means that this was tried and failed.
    """

    node: Node
    state: BuildState = _S.UNWANTED
    wanted: bool = False
    awaited: set[str] = field(default_factory=set)
    substituted: bool = False
    refused: bool = False


class Realisation:
    """One run of one plan. Use an instance only once."""

    def __init__(self, plan: Plan, services: Services, settings: Settings) -> None:
        self._plan = plan
        self._services = services
        self._settings = settings
        self._resolved: dict[DerivationId, Resolution] = dict(plan.resolved)
        self._valid: set[TreeId] = set(plan.valid)
        self._offered: set[TreeId] = set(plan.offered)
        self._claims: dict[DerivationId, Trace] = dict(plan.claims)
        self._jobs = {identifier: _Job(node) for identifier, node in plan.graph.nodes.items()}
        self._todo: deque[tuple[Callable[[_Job], None], _Job]] = deque()
        self._failures: list[Failure] = []
        self._steps = {step.node.id: step for step in plan.steps}
        names = {step.node.name for step in plan.steps}
        history = services.store.history(names)
        self._schedule = Schedule(
            ResourceBudget(settings.jobs, settings.memory_bytes),
            remaining_paths(plan.graph, {name: seen.seconds for name, seen in history.items()}),
            {name: seen.peak_memory_bytes for name, seen in history.items()},
        )

    def run(self) -> dict[DerivationId, Resolution]:
        """The output trees of all derivations that were resolved; raises BuildsFailed or Interrupted."""
        # One thread for each build and each download that the budget allows, so that neither waits for a thread.
        with WorkerPool(self._settings.jobs + self._schedule.budget.fetches) as workers:
            self._workers = workers
            self._builder = Builder(self._services, workers.stop)
            try:
                for root in self._plan.graph.roots:
                    self._later(self._want, self._jobs[root])
                self._loop()
            except KeyboardInterrupt:
                self._interrupt()
        # Keep the signed traces of other builders too: they document the inputs of results, and a push includes them.
        for identifier, claim in self._claims.items():
            if not (self._jobs[identifier].substituted and self._jobs[identifier].state is _S.VALID):
                self._services.store.record(claim)
        if self._failures:
            raise BuildsFailed(tuple(self._failures), self._names_in(_S.BLOCKED))
        return self._resolved

    def _interrupt(self) -> NoReturn:
        self._workers.stop.ask()
        if any(job.state is _S.RUNNING and fetched_file(job.node) for job in self._jobs.values()):
            self._services.fetcher().cancel()
        if substituter := self._services.substituter():
            substituter.cancel()
        raise Interrupted(
            "realize: interrupted",
            detail="Finished builds are kept; the next run continues from there.",
            reason="interrupted",
        ) from None

    def _names_in(self, state: BuildState) -> tuple[str, ...]:
        return tuple(job.node.name for job in self._jobs.values() if job.state is state)

    def _loop(self) -> None:
        self._settle()
        while self._start_what_fits() or self._workers.busy:
            self._workers.wait()
            self._settle()

    def _start_what_fits(self) -> bool:
        if self._failures and not self._settings.keep_going:
            return False
        started = False
        while taken := self._schedule.take():
            node, grant = taken
            job = self._jobs[node.id]
            self._move(job, _S.RUNNING)
            self._workers.start(self._work(job, grant), functools.partial(self._finish, job, grant))
            started = True
        return started

    def _work(self, job: _Job, grant: Grant) -> Callable[[], Resolution | None]:
        node = job.node
        if not isinstance(node, Derivation):
            return functools.partial(self._builder.make, self._step(node), {}, grant.jobs)
        if job.substituted:
            step = substitution(node, self._plan.graph, self._claims.get(node.id), self._valid)
            return functools.partial(self._builder.substitute, step, self._resolved[node.id], self._needed(node))
        trees = input_trees(node, self._resolved) or {}
        wanted = self._plan.graph.outputs.get(node.id)
        return functools.partial(self._builder.make, self._step(node), trees, grant.jobs, wanted)

    def _step(self, node: Node) -> Step:
        """The planned step, or a new one for a node that was planned as a substitution or not at all."""
        planned = self._steps.get(node.id)
        if planned is None or planned.action is Action.SUBSTITUTE:
            return step_of(node, self._resolved, None)
        return planned

    def _finish(self, job: _Job, grant: Grant, future: Future[Resolution | None]) -> None:
        self._schedule.give_back(grant)
        error = future.exception()
        # Any other exception is a bug in forge, and not a failure of the node.
        if error is not None and not isinstance(error, ForgeError):
            raise error
        if error is not None:
            self._fail(job, builder_failure(job.node, error))
        elif job.substituted and future.result() is None:
            self._miss(job)
        else:
            self._succeed(job, future.result())

    def _succeed(self, job: _Job, outputs: Resolution | None) -> None:
        if isinstance(job.node, Derivation) and outputs is not None:
            self._compare_with_claim(job.node, outputs)
            self._resolved[job.node.id] = outputs
            self._valid.update(self._needed(job.node).values() if job.substituted else outputs.values())
        elif not isinstance(job.node, Derivation):
            self._valid.add(job.node.tree)
        self._move(job, _S.VALID)
        self._later(self._tell_users_resolved, job)
        self._later(self._tell_users_valid, job)

    def _compare_with_claim(self, node: Derivation, outputs: Resolution) -> None:
        claim = self._claims.get(node.id)
        if claim and node.label.reproducible and dict(outputs) != dict(resolution_of(claim)):
            self._services.reporter.warning(
                f"{node.name}: the result here differs from what a trusted builder signed:\n"
                f"  here: {', '.join(f'{name} {tree}' for name, tree in sorted(outputs.items()))}\n"
                f"  {describe(claim)}\n"
                f"  One of the two machines is broken or compromised. Compare them with `forge challenge`."
            )

    def _miss(self, job: _Job) -> None:
        job.substituted, job.refused = False, True
        if self._settings.substitute_only:
            self._fail(
                job,
                Failure(
                    job.node.name,
                    f"realize {job.node.name}: no cache could deliver it",
                    "not-substituted",
                    "To build it, omit --substitute-only.",
                ),
            )
        else:
            self._await_inputs(job)

    def _fail(self, job: _Job, failure: Failure) -> None:
        self._move(job, _S.FAILED)
        self._failures.append(failure)
        self._services.reporter.failed(job.node, failure.reason, failure.message)
        self._later(self._block_users, job)

    # The methods below run from a worklist, one small step at a time, because graphs exceed Python's recursion limit.

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
        trees = tuple(self._needed(node).values()) if isinstance(node, Derivation) else (node.tree,)
        unknown = [tree for tree in trees if tree not in self._valid]
        if unknown:
            self._valid.update(self._services.store.valid_trees(unknown))
        return all(tree in self._valid for tree in trees)

    def _resolve(self, job: _Job) -> None:
        """Look up the node's action key: now if its inputs are resolved, else as soon as they are."""
        if job.state is not _S.UNWANTED:
            return
        unknown = [child for child in self._children(job) if self._is_unknown(child.node)]
        self._move(job, _S.RESOLVING)
        job.awaited = {child.node.id for child in unknown}
        for child in unknown:
            self._later(self._resolve, child)
        if not unknown:
            self._later(self._look_up, job)

    def _children(self, job: _Job) -> list[_Job]:
        return list({child.id: self._jobs[child.id] for child in inputs_of(job.node)}.values())

    def _is_unknown(self, node: Node) -> bool:
        return isinstance(node, Derivation) and node.id not in self._resolved

    def _look_up(self, job: _Job) -> None:
        node = job.node
        assert isinstance(node, Derivation)
        trees = input_trees(node, self._resolved)
        assert trees is not None
        key = action_key(node.preimage(trees))
        trace = self._services.store.lookup([key]).get(key)
        substituter = self._services.substituter()
        if trace is not None:
            self._services.store.record_resolved({node.id: resolution_of(trace)})
            self._learn(job, node, trace)
        elif substituter is None:
            self._await_inputs(job)
        else:
            self._workers.start(
                functools.partial(substituter.lookup, [key]), functools.partial(self._hear, job, node, key)
            )

    def _hear(self, job: _Job, node: Derivation, key: ActionKey, future: Future[Mapping[ActionKey, Trace]]) -> None:
        """Continue with a node when other stores have answered about its key."""
        claim = future.result().get(key)
        # An input may have failed in the meantime, which blocked the node.
        if job.state is not _S.RESOLVING:
            return
        if claim is None:
            self._await_inputs(job)
            return
        self._claims[node.id] = claim
        # Nobody checked yet that the store also has the content. If it lacks it, the fetch is a miss.
        self._offered.update(output.tree for output in claim.outputs.values())
        self._learn(job, node, claim)

    def _learn(self, job: _Job, node: Derivation, trace: Trace) -> None:
        self._resolved[node.id] = resolution_of(trace)
        self._move(job, _S.RESOLVED)
        self._services.reporter.finished(node, 0.0, unchanged=True)
        self._later(self._tell_users_resolved, job)
        if job.wanted:
            self._later(self._want, job)

    def _await_inputs(self, job: _Job) -> None:
        if self._is_offered(job):
            job.substituted = True
            self._make_ready(job)
            return
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
        job.awaited = {child.node.id for child in absent}
        for child in absent:
            self._later(self._want, child)

    def _is_offered(self, job: _Job) -> bool:
        if job.refused or not isinstance(job.node, Derivation) or job.node.id not in self._resolved:
            return False
        return all(tree in self._valid or tree in self._offered for tree in self._needed(job.node).values())

    def _needed(self, node: Derivation) -> Resolution:
        return self._plan.graph.needed(node, self._resolved[node.id])

    def _make_ready(self, job: _Job) -> None:
        self._move(job, _S.READY)
        self._schedule.add(job.node, fetched=job.substituted)

    def _users(self, job: _Job) -> list[_Job]:
        return [self._jobs[user] for user in self._plan.graph.users[job.node.id]]

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
        """Remove `job` from the inputs that `user` awaits; true if it was the last. A repeated call returns false."""
        identifier = job.node.id
        if identifier not in user.awaited:
            return False
        user.awaited.discard(identifier)
        return not user.awaited

    def _block_users(self, job: _Job) -> None:
        for user in self._users(job):
            if user.state in (_S.RESOLVING, _S.WAITING):
                self._move(user, _S.BLOCKED)
                self._later(self._block_users, user)


def builder_failure(node: Node, error: ForgeError) -> Failure:
    """The failure to report for an error that a worker raised."""
    failure = getattr(error, "failure", None)
    if isinstance(failure, Failure):
        return failure
    return Failure(node.name, error.message, error.reason, error.detail, exit_code=error.exit_code)
