"""The state of a run that a view shows: what runs, what it last printed, how far everything is. Knows no terminal."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mmojo_forge.cli import console
from mmojo_forge.engine.plan import Action, Plan, Step
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.model.derivation import Node

PHASE_MARK = "forge-phase: "
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(slots=True)
class Running:
    """One node that forge makes: start time, phase, last line of output, and for a download its bytes."""

    name: str
    action: Action
    started: float
    phase: str = ""
    last_line: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    waits: bool = False
    _partial: bytes = b""

    def add_output(self, chunk: bytes) -> None:
        """Add a piece of the build's output, which may end within a line."""
        lines = (self._partial + chunk).split(b"\n")
        self._partial = lines[-1][-4096:]
        for line in lines[:-1]:
            self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        text = _ESCAPES.sub("", line[-500:].decode("utf-8", "replace")).strip()
        if text.startswith(PHASE_MARK):
            self.phase = text.removeprefix(PHASE_MARK)
        elif text:
            self.last_line = text


@dataclass(slots=True)
class Progress:
    """Totals of the run, and the running nodes in the order in which they started."""

    plan: Plan | None = None
    running: dict[str, Running] = field(default_factory=dict)
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    fetched_bytes: int = 0
    left_seconds: dict[str, float] = field(default_factory=dict)
    planned: frozenset[str] = frozenset()
    unplanned: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        """How many nodes forge has to make: those of the plan, and those that it found it needs later."""
        return (len(self.plan.steps) if self.plan else 0) + len(self.unplanned)

    @property
    def bytes_so_far(self) -> int:
        """Bytes downloaded so far, running downloads included."""
        return self.fetched_bytes + sum(row.done_bytes for row in self.running.values())

    def estimate(self, now: float, cores: int) -> float | None:
        """Seconds left, from the times of earlier builds; None if most of the remaining nodes have no history."""
        known = 0.0
        for name, seconds in self.left_seconds.items():
            row = self.running.get(name)
            known += max(seconds - (now - row.started), 0.0) if row else seconds
        unknown = self.total - self.done - len(self.left_seconds)
        return None if unknown > len(self.left_seconds) or not known else known / max(1, min(cores, 2))


class ProgressReporter(Reporter):
    """Keeps a Progress, which subclasses show. One lock guards all updates."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.state = Progress()
        self.lock = threading.RLock()

    def planned(self, plan: Plan) -> None:
        """Begin a new Progress for this plan."""
        with self.lock:
            self.state = Progress(plan, planned=frozenset(step.node.id for step in plan.steps))
            self.state.left_seconds = {step.node.id: step.seconds for step in plan.steps if step.seconds is not None}

    def started(self, step: Step) -> None:
        """Add the node to those that run."""
        with self.lock:
            identifier = step.node.id
            self.state.running[identifier] = Running(step.node.name, step.action, self.clock())
            if identifier not in self.state.planned:
                self.state.unplanned.add(identifier)

    def output(self, node: Node, chunk: bytes) -> None:
        """Note the output of a build."""
        with self.lock:
            row = self.state.running.get(node.id)
            if row:
                row.add_output(chunk)

    def progress(self, node: Node, done: int, total: int) -> None:
        """Note how far a download is."""
        with self.lock:
            row = self.state.running.get(node.id)
            if row:
                row.done_bytes, row.total_bytes = done, total

    def waiting(self, node: Node) -> None:
        """Note that another process makes the node."""
        with self.lock:
            row = self.state.running.get(node.id)
            if row:
                row.waits = True

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Count the node as done."""
        with self.lock:
            row = self.state.running.pop(node.id, None)
            self.state.left_seconds.pop(node.id, None)
            self.state.fetched_bytes += row.total_bytes if row else 0
            self.state.done += 1
            self.state.unchanged += unchanged

    def missed(self, node: Node) -> None:
        """Remove the node from those that run: no cache had it, and a build of it will start."""
        with self.lock:
            self.state.running.pop(node.id, None)

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Count the node as failed."""
        with self.lock:
            self.state.running.pop(node.id, None)
            self.state.failed += 1


def plan_line(plan: Plan) -> str:
    """The plan in one line: `fetch 3 sources (90 MB); build 2 nodes; 40 of 45 known already`."""
    parts = []
    if plan.count(Action.FETCH):
        parts.append(
            f"fetch {console.plural(plan.count(Action.FETCH), 'source')} ({console.format_size(plan.fetch_bytes)})"
        )
    if plan.count(Action.SUBSTITUTE):
        size = plan.bytes_of(Action.SUBSTITUTE)
        amount = f" (up to {console.format_size(size)})" if size else ""
        parts.append(f"download {console.plural(plan.count(Action.SUBSTITUTE), 'result')}{amount}")
    if plan.count(Action.BUILD):
        estimates = [step.seconds for step in plan.steps if step.action is Action.BUILD]
        seconds = sum(value for value in estimates if value is not None)
        known = f", {console.format_duration(seconds)} last time" if seconds and None not in estimates else ""
        parts.append(f"build {console.plural(plan.count(Action.BUILD), 'node')}{known}")
    if plan.count(Action.IMPORT):
        parts.append(f"import {console.plural(plan.count(Action.IMPORT), 'workspace tree')}")
    return f"{'; '.join(parts) or 'nothing to do'}; {plan.known} of {len(plan.graph.nodes)} known already"
