"""Measure how fast programs run a model: llama-bench of each, in turn, so that all of them see the same machine.

    round 1:  1 thread: A B    2 threads: A B
    round 2:  1 thread: A B    2 threads: A B    …

A turn is one process, and gives one figure for each test: the median of its repetitions. What is told of a contestant,
a thread count and a test is the median over the rounds, with the lowest and the highest. The ratio to the first
contestant is taken within each round, where both ran one after the other, before its median is taken: what slows the
whole machine down for a while slows both.
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
    """What every contestant has to do. `prompt` and `generate` in tokens (0: not measured), one of them not 0."""

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
                f"{','.join(map(str, self.threads)) or 'none'} are no thread counts",
                "Give --threads different whole numbers from 1, separated by commas: --threads 1,2,4.",
            )
        if min(self.rounds, self.repetitions) < 1 or self.timeout_seconds <= 0:
            raise _bad_workload("less than one round", "Give --rounds, --repetitions and --timeout numbers above 0.")

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests by llama-bench's names, `pp512` and `tg128`, in the order they are run."""
        both = (f"pp{self.prompt}" if self.prompt else "", f"tg{self.generate}" if self.generate else "")
        return tuple(test for test in both if test)

    def arguments(self, threads: int) -> tuple[str, ...]:
        """llama-bench's arguments for one turn, apart from the output format."""
        counts = {"-p": self.prompt, "-n": self.generate, "-t": threads, "-r": self.repetitions}
        return ("-m", str(self.model), *(word for name, count in counts.items() for word in (name, str(count))))


@dataclass(frozen=True, slots=True)
class Turn:
    """One process of a run. `number` counts from 1 to `of`; `round` from 1 to the workload's rounds."""

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
    """What one contestant came to: `speed` in tokens per second, `ratio` to the first contestant of the run."""

    target: str
    threads: int
    test: str
    speed: Spread
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Best:
    """The row of a contestant's fastest thread count; `ratio` of its median to that of the first one's fastest."""

    row: Row
    ratio: float


@dataclass(frozen=True, slots=True)
class BenchMachine:
    """Where it was measured. `cores` are those usable here, `load` how many were busy in the minute before."""

    cpu: str
    cores: int
    system: str
    load: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A whole run. `facts` by contestant's name; `samples` in the order they were measured."""

    machine: BenchMachine
    workload: Workload
    contestants: tuple[Contestant, ...]
    facts: Mapping[str, Facts]
    samples: tuple[Sample, ...]

    def rows(self) -> list[Row]:
        """Every contestant at every thread count in every test; those to compare stand together."""
        speeds = {
            (test, threads, one.name): self._speeds(one.name, threads, test)
            for test in self.workload.tests
            for threads in self.workload.threads
            for one in self.contestants
        }
        rows = []
        for (test, threads, name), values in speeds.items():
            first = speeds[test, threads, self.contestants[0].name]
            ratios = [mine / theirs for mine, theirs in zip(values, first, strict=True)]
            rows.append(Row(name, threads, test, Spread.of(values), Spread.of(ratios)))
        return rows

    def best(self) -> list[Best]:
        """For each contestant and test the thread count with the highest median; of equal ones the lowest."""
        fastest: dict[tuple[str, str], Row] = {}
        for row in sorted(self.rows(), key=lambda row: (-row.speed.median, row.threads)):
            fastest.setdefault((row.target, row.test), row)
        first = self.contestants[0].name
        return [
            Best(fastest[one.name, test], fastest[one.name, test].speed.median / fastest[first, test].speed.median)
            for one in self.contestants
            for test in self.workload.tests
        ]

    def _speeds(self, target: str, threads: int, test: str) -> list[float]:
        """One value per round: the median of its repetitions."""
        by_round: dict[int, list[float]] = {}
        for one in self.samples:
            if (one.target, one.threads, one.test) == (target, threads, test):
                by_round.setdefault(one.round, []).append(one.speed)
        return [statistics.median(speeds) for speeds in by_round.values()]


class BenchReporter:
    """What a run tells while it goes on; this one says nothing."""

    def began(self, turn: Turn) -> None:
        """Called before each process is started."""

    def measured(self, turn: Turn, figures: Sequence[Figures]) -> None:
        """Called with what the process came to."""


def measure(
    contestants: Sequence[Contestant],
    workload: Workload,
    machine: BenchMachine,
    environment: Mapping[str, str],
    reporter: BenchReporter,
) -> BenchReport:
    """The report of all turns; raises BenchError at the first that fails. Takes as long as all processes together."""
    samples: list[Sample] = []
    facts: dict[str, Facts] = {}
    for turn in turns(contestants, workload):
        reporter.began(turn)
        name, arguments = turn.contestant.name, workload.arguments(turn.threads)
        done = llama_bench.run(turn.contestant, arguments, environment, workload.timeout_seconds)
        figures = _expected(turn, workload, done.figures)
        facts.setdefault(name, done.facts)
        samples += [
            Sample(name, turn.threads, one.test, turn.round, repetition, speed)
            for one in figures
            for repetition, speed in enumerate(one.speeds, start=1)
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
    """1, half, three quarters and all of the cores, each once: `1, 4, 6, 8` of eight."""
    return tuple(sorted({1, *(count for count in (cores // 2, cores * 3 // 4, cores) if count)}))


def check_model(path: Path) -> None:
    """Return if `path` is a whole GGUF model: llama-bench says of a bad one only that it cannot load it.

    Reads the head, not the weights. Raises EngineError (`no-model`, `model-unreadable`, `bad-model`).
    """
    if not path.is_file():
        raise EngineError(
            f"read model {path}: there is no such file",
            detail="Give a GGUF file with --model, or none for a model of random weights.",
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
        raise _bad_model(f"model {path}: it has no weights, only a vocabulary or other facts")


def _bad_model(message: str) -> EngineError:
    return EngineError(
        f"read {message}",
        detail="Fetch the file again, or convert the model to GGUF with llama.cpp's converters.",
        reason="bad-model",
    )


def this_machine(cores: int) -> BenchMachine:
    """The machine as it is now; `cores` are those that may be used."""
    cpu = host_facts.read().get("cpu.model") or "unknown processor"
    return BenchMachine(cpu, cores, f"{platform.system().lower()}-{platform.machine()}", os.getloadavg()[0])


def _expected(turn: Turn, workload: Workload, figures: Sequence[Figures]) -> Sequence[Figures]:
    """The figures, if they are of the tests that were asked for."""
    found = {one.test: len(one.speeds) for one in figures}
    if found != dict.fromkeys(workload.tests, workload.repetitions):
        wanted = ", ".join(f"{workload.repetitions} × {test}" for test in workload.tests)
        given = ", ".join(f"{count} × {test}" for test, count in found.items()) or "nothing"
        raise BenchError(
            f"bench {turn.contestant.name}: asked for {wanted}, it measured {given}",
            detail="It is no llama-bench, or one that takes other arguments.",
            reason="bench-output",
        )
    return figures


def _bad_workload(cause: str, advice: str) -> EngineError:
    return EngineError(f"bench: {cause}", detail=advice, reason="bad-workload")
