"""Measures how fast programs run a model. Their llama-benches take turns, so that all see the same machine.

    round 1:  1 thread: A B    2 threads: A B
    round 2:  1 thread: A B    2 threads: A B    …

A turn is one process. It gives one figure for each test: the median of its repetitions. The report has the median over
all rounds, with the lowest and the highest, for each contestant, thread count and test.

The ratio to the first contestant is computed within each round, then its median is taken. Both ran close together in
that round, so a slow phase of the machine affects both.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.ape.errors import ApeError
from mmojo_forge.ape.read.gguf import read_gguf
from mmojo_forge.engine import host_facts
from mmojo_forge.engine.bench import llama_bench
from mmojo_forge.engine.bench.llama_bench import BenchError, Contestant, Facts, Figures
from mmojo_forge.engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class Workload:
    """What every contestant runs. `prompt` and `generate` are numbers of tokens; 0 skips that test, but not both.

    Raises EngineError (`bad-workload`).
    """

    model: Path
    threads: tuple[int, ...]
    prompt: int = 512
    generate: int = 128
    rounds: int = 3
    repetitions: int = 1
    timeout_seconds: float = 3600

    def __post_init__(self) -> None:
        if not (self.prompt or self.generate) or min(self.prompt, self.generate) < 0:
            raise _bad_workload("nothing to do", "Give --prompt or --generate a number of tokens above 0.")
        if not self.threads or min(self.threads) < 1 or len(set(self.threads)) < len(self.threads):
            raise _bad_workload(
                f"invalid thread counts: {','.join(map(str, self.threads)) or 'none'}",
                "Give --threads distinct whole numbers from 1, separated by commas: --threads 1,2,4",
            )
        if min(self.rounds, self.repetitions) < 1 or self.timeout_seconds <= 0:
            raise _bad_workload("less than one round", "Give --rounds, --repetitions and --timeout numbers above 0.")

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests by llama-bench's names (`pp512`, `tg128`), in the order they run."""
        both = (f"pp{self.prompt}" if self.prompt else "", f"tg{self.generate}" if self.generate else "")
        return tuple(test for test in both if test)

    def arguments(self, threads: int) -> tuple[str, ...]:
        """llama-bench's arguments for one turn, apart from the output format."""
        counts = {"-p": self.prompt, "-n": self.generate, "-t": threads, "-r": self.repetitions}
        return ("-m", str(self.model), *(word for name, count in counts.items() for word in (name, str(count))))


@dataclass(frozen=True, slots=True)
class Turn:
    """One process of a run. `number` counts from 1 to `of`, `round` from 1 to the workload's rounds."""

    number: int
    of: int
    round: int
    contestant: Contestant
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured speed in tokens per second; `round` and `repetition` count from 1."""

    target: str
    threads: int
    test: str
    round: int
    repetition: int
    speed: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of one value per round, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one contestant: `speed` in tokens per second, and its `ratio` to the run's first contestant."""

    target: str
    threads: int
    test: str
    speed: Spread
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Best:
    """The row of a contestant's fastest thread count.

    `ratio` compares its median with that of the first contestant at the latter's own fastest thread count.
    """

    row: Row
    ratio: float


@dataclass(frozen=True, slots=True)
class BenchMachine:
    """The measuring machine. `cores` is the number of usable cores, `load` the load average of the minute before."""

    cpu: str
    cores: int
    system: str
    load: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The result of a run. `facts` is by contestant's name; `samples` are in the order they were measured."""

    machine: BenchMachine
    workload: Workload
    contestants: tuple[Contestant, ...]
    facts: Mapping[str, Facts]
    samples: tuple[Sample, ...]

    def rows(self) -> list[Row]:
        """A row for each test, thread count and contestant. Rows to compare are adjacent."""
        speeds = {
            (test, threads, contestant.name): self._speeds(contestant.name, threads, test)
            for test in self.workload.tests
            for threads in self.workload.threads
            for contestant in self.contestants
        }
        rows = []
        for (test, threads, name), values in speeds.items():
            first = speeds[test, threads, self.contestants[0].name]
            ratios = [mine / theirs for mine, theirs in zip(values, first, strict=True)]
            rows.append(Row(name, threads, test, Spread.of(values), Spread.of(ratios)))
        return rows

    def best(self) -> list[Best]:
        """For each contestant and test, the thread count with the highest median; the lowest of equal ones."""
        fastest: dict[tuple[str, str], Row] = {}
        for row in sorted(self.rows(), key=lambda row: (-row.speed.median, row.threads)):
            fastest.setdefault((row.target, row.test), row)
        first = self.contestants[0].name
        pairs = [(contestant.name, test) for contestant in self.contestants for test in self.workload.tests]
        return [
            Best(fastest[name, test], fastest[name, test].speed.median / fastest[first, test].speed.median)
            for name, test in pairs
        ]

    def _speeds(self, target: str, threads: int, test: str) -> list[float]:
        """One value per round: the median of its repetitions."""
        by_round: dict[int, list[float]] = {}
        for sample in self.samples:
            if (sample.target, sample.threads, sample.test) == (target, threads, test):
                by_round.setdefault(sample.round, []).append(sample.speed)
        return [statistics.median(speeds) for speeds in by_round.values()]


class BenchReporter:
    """Receives the progress of a run; this base class ignores it."""

    def began(self, turn: Turn) -> None:
        """Called before each process starts."""

    def measured(self, turn: Turn, figures: Sequence[Figures]) -> None:
        """Called with the figures of each process."""


def measure(
    contestants: Sequence[Contestant],
    workload: Workload,
    machine: BenchMachine,
    environment: Mapping[str, str],
    reporter: BenchReporter,
) -> BenchReport:
    """Run all turns, one after the other; raises BenchError if one fails."""
    samples: list[Sample] = []
    facts: dict[str, Facts] = {}
    for turn in turns(contestants, workload):
        reporter.began(turn)
        name, arguments = turn.contestant.name, workload.arguments(turn.threads)
        done = llama_bench.run(turn.contestant, arguments, environment, workload.timeout_seconds)
        figures = _expected(turn, workload, done.figures)
        facts.setdefault(name, done.facts)
        samples += [
            Sample(name, turn.threads, test.test, turn.round, repetition, speed)
            for test in figures
            for repetition, speed in enumerate(test.speeds, start=1)
        ]
        reporter.measured(turn, figures)
    return BenchReport(machine, workload, tuple(contestants), facts, tuple(samples))


def turns(contestants: Sequence[Contestant], workload: Workload) -> Iterator[Turn]:
    """All turns in order: round by round, thread count by thread count, one contestant after the other."""
    of = len(contestants) * len(workload.threads) * workload.rounds
    number = 0
    for current in range(1, workload.rounds + 1):
        for threads in workload.threads:
            for contestant in contestants:
                number += 1
                yield Turn(number, of, current, contestant, threads)


def default_threads(cores: int) -> tuple[int, ...]:
    """1, half, three quarters and all of the cores, without duplicates: `1, 4, 6, 8` for eight cores."""
    return tuple(sorted({1, *(count for count in (cores // 2, cores * 3 // 4, cores) if count)}))


def check_model(path: Path) -> None:
    """Raise EngineError (`no-model`, `model-unreadable`, `bad-model`) unless `path` is a complete GGUF model.

    For a bad model, llama-bench only says that it cannot load it. Reads the header, not the weights.
    """
    if not path.is_file():
        raise EngineError(
            f"read model {path}: there is no such file",
            detail="Name a GGUF file with --model. Without --model, forge makes a model with random weights.",
            reason="no-model",
        )
    try:
        with path.open("rb") as stream:
            facts = read_gguf(stream, 0, stream.seek(0, os.SEEK_END), str(path))
    except OSError as error:
        raise EngineError(
            f"read model {path}: {error.strerror}", detail="Check its permissions.", reason="model-unreadable"
        ) from error
    except ApeError as error:
        raise _bad_model(error.message) from error
    if not facts.parameters:
        raise _bad_model(f"model {path}: it has no weights, only a vocabulary or other metadata")


def _bad_model(message: str) -> EngineError:
    return EngineError(
        f"read {message}",
        detail="Download the file again, or convert the model to GGUF with llama.cpp's converters.",
        reason="bad-model",
    )


def this_machine(cores: int) -> BenchMachine:
    """The facts of this machine, with its current load. `cores` is the number of usable cores."""
    cpu = host_facts.read().get("cpu.model") or "unknown processor"
    return BenchMachine(cpu, cores, f"{platform.system().lower()}-{platform.machine()}", os.getloadavg()[0])


def _expected(turn: Turn, workload: Workload, figures: Sequence[Figures]) -> Sequence[Figures]:
    """The figures, unchanged; raises BenchError (`bench-output`) if they are not of the requested tests."""
    found = {test.test: len(test.speeds) for test in figures}
    if found != dict.fromkeys(workload.tests, workload.repetitions):
        wanted = ", ".join(f"{workload.repetitions} × {test}" for test in workload.tests)
        given = ", ".join(f"{count} × {test}" for test, count in found.items()) or "nothing"
        raise BenchError(
            f"bench {turn.contestant.name}: it measured {given} instead of {wanted}",
            detail="The program is not llama-bench, or a version with other arguments.",
            reason="bench-output",
        )
    return figures


def _bad_workload(cause: str, advice: str) -> EngineError:
    return EngineError(f"bench: {cause}", detail=advice, reason="bad-workload")
