"""The state of a run as it is shown: what runs, what it last said, how far everything is. Knows no terminal."""

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
    """One node that is being made: since when, its phase and last line, bytes done of all if it downloads."""

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
        """Take in a piece of the build's output."""
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
    """Totals of the run, and the nodes that run now in the order they started."""

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
        """Nodes about which something has to be done, those that turned out so included."""
        return (len(self.plan.steps) if self.plan else 0) + len(self.unplanned)

    @property
    def bytes_so_far(self) -> int:
        """Bytes downloaded, those of running downloads included."""
        return self.fetched_bytes + sum(row.done_bytes for row in self.running.values())

    def estimate(self, now: float, cores: int) -> float | None:
        """Seconds that are left as far as history tells; None when nothing is known of most of what is left."""
        known = 0.0
        for name, seconds in self.left_seconds.items():
            row = self.running.get(name)
            known += max(seconds - (now - row.started), 0.0) if row else seconds
        unknown = self.total - self.done - len(self.left_seconds)
        return None if unknown > len(self.left_seconds) or not known else known / max(1, min(cores, 2))


class ProgressReporter(Reporter):
    """Keeps a Progress; subclasses show it. All updates happen under one lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.state = Progress()
        self.lock = threading.RLock()

    def planned(self, plan: Plan) -> None:
        """Note the plan, from which everything is counted anew."""
        with self.lock:
            self.state = Progress(plan, planned=frozenset(step.node.id for step in plan.steps))
            self.state.left_seconds = {step.node.id: step.seconds for step in plan.steps if step.seconds is not None}

    def started(self, step: Step) -> None:
        """Note what began."""
        with self.lock:
            identifier = step.node.id
            self.state.running[identifier] = Running(step.node.name, step.action, self.clock())
            if identifier not in self.state.planned:
                self.state.unplanned.add(identifier)

    def output(self, node: Node, chunk: bytes) -> None:
        """Note what a build said."""
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
        """Note that another process is at it."""
        with self.lock:
            row = self.state.running.get(node.id)
            if row:
                row.waits = True

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Note what is done."""
        with self.lock:
            row = self.state.running.pop(node.id, None)
            self.state.left_seconds.pop(node.id, None)
            self.state.fetched_bytes += row.total_bytes if row else 0
            self.state.done += 1
            self.state.unchanged += unchanged

    def missed(self, node: Node) -> None:
        """Note that it is not done yet."""
        with self.lock:
            self.state.running.pop(node.id, None)

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Note what failed."""
        with self.lock:
            self.state.running.pop(node.id, None)
            self.state.failed += 1


def plan_line(plan: Plan) -> str:
    """One line that says what is going to happen."""
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
