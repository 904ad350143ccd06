"""Reporters that show a run on stderr: a live view on a terminal, plain lines in a pipe, JSON events for programs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TextIO

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.progress import ProgressReporter, Running, plan_line
from mmojo_forge.engine.plan import Action, Plan, Step
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.model.derivation import Node

REFRESH_PER_SECOND = 5
_VERB = MappingProxyType(
    {Action.FETCH: "fetch", Action.IMPORT: "import", Action.SUBSTITUTE: "download", Action.BUILD: "build"}
)


def make_reporter(
    cores: int,
    *,
    as_json: bool = False,
    quiet: bool = False,
    color: bool | None = None,
    clock: Callable[[], float] = time.time,
    stream: TextIO | None = None,
) -> Reporter:
    """The reporter that suits `stream`, which is stderr if None.

    If `color` is None, the live view has colours unless NO_COLOR is set.
    """
    stream = stream or sys.stderr
    if as_json:
        return JsonReporter(stream, clock)
    if quiet:
        return Reporter()
    if stream.isatty():
        colored = not os.environ.get("NO_COLOR") if color is None else color
        return LiveReporter(stream, clock, color=colored, cores=cores)
    return PlainReporter(stream, clock)


class PlainReporter(ProgressReporter):
    """Prints a line when a node starts, ends or fails, and each minute what runs. For pipes and logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], heartbeat_seconds: float = 60.0) -> None:
        super().__init__(clock)
        self._stream = stream
        self._heartbeat_seconds = heartbeat_seconds
        self._stopped = threading.Event()

    def planned(self, plan: Plan) -> None:
        """Print the plan in one line, and start the heartbeat."""
        super().planned(plan)
        if plan.steps:
            self._say(plan_line(plan))
            self._stopped = threading.Event()
            threading.Thread(target=self._beat, args=(self._stopped,), daemon=True).start()

    def started(self, step: Step) -> None:
        """Print what begins."""
        super().started(step)
        amount = f" ({console.format_size(step.size)})" if step.size else ""
        self._say(f"{_VERB[step.action]} {step.node.name}{amount}")

    def waiting(self, node: Node) -> None:
        """Print that another process makes the node."""
        super().waiting(node)
        self._say(f"waiting for another forge process, which makes {node.name}")

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Print what is done."""
        super().finished(node, seconds, unchanged=unchanged)
        how = "unchanged" if unchanged else console.format_duration(seconds)
        self._say(f"done {node.name} ({how}) [{self.state.done}/{self.state.total}]")

    def missed(self, node: Node) -> None:
        """Print that no cache had the node, so that forge builds it."""
        super().missed(node)
        self._say(f"no cache has {node.name} after all: building it")

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Print what failed."""
        super().failed(node, reason, message)
        self._say(f"failed {node.name}: {reason}")

    def warning(self, message: str) -> None:
        """Print a warning."""
        self._say(f"warning: {message}")

    def note(self, message: str) -> None:
        """Print the message."""
        self._say(message)

    def ended(self) -> None:
        """Stop the heartbeat."""
        self._stopped.set()

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._heartbeat_seconds):
            with self.lock:
                rows = [self._heart_line(row) for row in self.state.running.values()]
            if rows:
                self._say(f"  [{self.state.done}/{self.state.total}] {'; '.join(rows)}")

    def _heart_line(self, row: Running) -> str:
        said = f" ({row.last_line[:60]})" if row.last_line else ""
        return f"{row.name} since {console.format_duration(self.clock() - row.started)}{said}"

    def _say(self, line: str) -> None:
        with self.lock:
            click.echo(line, file=self._stream)


class JsonReporter(Reporter):
    """Prints one JSON object per line: `event`, `time` (seconds since the epoch), and the fields of that event."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()

    def planned(self, plan: Plan) -> None:
        """`planned`: counts and bytes."""
        self._emit(
            "planned",
            fetch=plan.count(Action.FETCH),
            fetch_bytes=plan.fetch_bytes,
            substitute=plan.count(Action.SUBSTITUTE),
            substitute_bytes=plan.bytes_of(Action.SUBSTITUTE),
            build=plan.count(Action.BUILD),
            nodes=len(plan.graph.nodes),
            known=plan.known,
        )

    def started(self, step: Step) -> None:
        """`started`: node and action."""
        self._emit("started", **_named(step.node), action=step.action.value)

    def progress(self, node: Node, done: int, total: int) -> None:
        """`progress`: bytes of a download."""
        self._emit("progress", **_named(node), done=done, total=total)

    def waiting(self, node: Node) -> None:
        """`waiting`: another process holds the node."""
        self._emit("waiting", **_named(node))

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """`finished`: seconds, and whether the node turned out unchanged."""
        self._emit("finished", **_named(node), seconds=round(seconds, 3), unchanged=unchanged)

    def missed(self, node: Node) -> None:
        """`missed`: no cache had the node after all, so that forge builds it."""
        self._emit("missed", **_named(node))

    def failed(self, node: Node, reason: str, message: str) -> None:
        """`failed`: the machine-readable reason and the message."""
        self._emit("failed", **_named(node), reason=reason, message=message)

    def warning(self, message: str) -> None:
        """`warning`: the text."""
        self._emit("warning", message=message)

    def note(self, message: str) -> None:
        """`note`: the text."""
        self._emit("note", message=message)

    def _emit(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(self._clock(), 3), **fields})
        with self._lock:
            click.echo(line, file=self._stream)


def _named(node: Node) -> dict[str, str]:
    return {"name": node.name, "id": node.id}


class LiveReporter(ProgressReporter):
    """Draws a view in place: totals, a bar, an estimate, and each running node with the last line it printed."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], *, color: bool, cores: int) -> None:
        super().__init__(clock)
        # rich takes long to import, and only a terminal needs it.
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, no_color=not color, highlight=False)
        self._cores = cores
        self._began = clock()
        self._live = Live(
            console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True, get_renderable=self._render
        )

    def planned(self, plan: Plan) -> None:
        """Print the plan in one line, and begin to draw."""
        super().planned(plan)
        if plan.steps:
            self._console.print(plan_line(plan), style="bold", markup=False)
            self._live.start()

    def warning(self, message: str) -> None:
        """Print the warning above the view."""
        self._console.print(f"warning: {message}", style="yellow", markup=False)

    def note(self, message: str) -> None:
        """Print the message above the view."""
        self._console.print(message, markup=False)

    def finished(self, node: Node, seconds: float, *, unchanged: bool = False) -> None:
        """Leave a line above the view if the node took five seconds or more."""
        super().finished(node, seconds, unchanged=unchanged)
        if seconds >= 5:
            self._console.print(f"  ✓ {node.name}  {console.format_duration(seconds)}", style="green", markup=False)

    def failed(self, node: Node, reason: str, message: str) -> None:
        """Leave a line above the view."""
        super().failed(node, reason, message)
        self._console.print(f"  ✗ {node.name}  {reason}", style="red", markup=False)

    def ended(self) -> None:
        """Replace the view by a summary."""
        if self._live.is_started:
            self._live.stop()
            took = console.format_duration(self.clock() - self._began)
            self._console.print(f"{self.state.done} of {self.state.total} done in {took}", markup=False)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self.clock()
        with self.lock:
            rows = [(row.name, row.action, *self._cells(row, now)) for row in self.state.running.values()]
            headline = self._headline(now)
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        for name, action, elapsed, detail in rows[: max(4, self._console.height - 6)]:
            table.add_row(Text(f"  {_VERB[action]} {name}", style="cyan"), elapsed, Text(detail, style="dim"))
        return Group(Text(headline, style="bold"), table)

    def _cells(self, row: Running, now: float) -> tuple[str, str]:
        elapsed = console.format_duration(now - row.started)
        if row.waits:
            return elapsed, "another forge process is making it"
        if row.total_bytes:
            percent = 100 * row.done_bytes // row.total_bytes
            return (
                elapsed,
                f"{_bar(percent)} {console.format_size(row.done_bytes)} of {console.format_size(row.total_bytes)}",
            )
        phase = f"{row.phase}: " if row.phase else ""
        return elapsed, f"{phase}{row.last_line}"

    def _headline(self, now: float) -> str:
        state = self.state
        percent = 100 * state.done // state.total if state.total else 100
        line = f"{_bar(percent)} {state.done}/{state.total}  {console.format_duration(now - self._began)}"
        if state.bytes_so_far and state.plan:
            line += f"  ↓ {console.format_size(state.bytes_so_far)}"
            if not state.plan.count(Action.SUBSTITUTE):
                # Of sources the total is known. Of a result, only its download learns the compressed size.
                line += f" of {console.format_size(state.plan.fetch_bytes)}"
        left = state.estimate(now, self._cores)
        return f"{line}  about {console.format_duration(left)} left" if left else line


def _bar(percent: int, width: int = 20) -> str:
    filled = width * percent // 100
    return "━" * filled + "╌" * (width - filled)
