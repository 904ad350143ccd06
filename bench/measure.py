"""Timing: run an action several times, keep every time, print median and spread."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds of each run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median in seconds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        text = _scaled(self.median)
        if len(self.seconds) > 1:
            text += f" ({_scaled(min(self.seconds))} to {_scaled(max(self.seconds))}, {len(self.seconds)} runs)"
        return text


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: what was measured, forge's times, the peer's times, the budget in words."""

    what: str
    ours: Timing
    peer: Timing | None
    peer_name: str
    budget: str
    per: int = 1
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """forge's median divided by the peer's; None without a peer."""
        return self.ours.median / self.peer.median if self.peer else None

    def cells(self) -> tuple[str, ...]:
        """The cells of the row; times are divided by `per`."""
        ours = Timing(tuple(value / self.per for value in self.ours.seconds))
        peer = Timing(tuple(value / self.per for value in self.peer.seconds)) if self.peer else None
        ratio = f"{self.ratio:.2f} ×" if self.ratio is not None else ""
        return (self.what, str(ours), f"{self.peer_name}: {peer}" if peer else self.peer_name, ratio, self.budget)


def _scaled(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def timed(action: Callable[[], object]) -> float:
    """Wall seconds that `action` takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def in_turn(
    first: Callable[[], object],
    second: Callable[[], object] | None,
    runs: int,
    between: Callable[[], object] | None = None,
) -> tuple[Timing, Timing | None]:
    """The times of both actions, run in turn (A B A B …), so that other load on the machine slows down both alike."""
    ours, theirs = [], []
    for _ in range(runs):
        if between:
            between()
        ours.append(timed(first))
        if second:
            theirs.append(timed(second))
    return Timing(tuple(ours)), Timing(tuple(theirs)) if second else None


def run(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> str:
    """What the command prints; raises SystemExit if it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
