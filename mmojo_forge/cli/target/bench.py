"""`forge bench TARGET…`: compare how fast targets run a model on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import click

from mmojo_forge.cli import console
from mmojo_forge.cli.options import json_option
from mmojo_forge.cli.terminal import make_reporter
from mmojo_forge.engine.bench import measure
from mmojo_forge.engine.bench import plot as bench_plot
from mmojo_forge.engine.bench import targets as bench_targets
from mmojo_forge.engine.bench.llama_bench import Figures
from mmojo_forge.engine.bench.measure import BenchMachine, BenchReport, BenchReporter, Row, Turn, Workload
from mmojo_forge.engine.realise.run import realise_request
from mmojo_forge.engine.session import Session
from mmojo_forge.engine.workspace import Request

SHAPES = ("tiny", "1b-q8_0")
_WORDS = MappingProxyType({"pp": "prompt", "tg": "generation"})


def _counts(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is not a list of whole numbers from 1, like 1,2,4.")
    return tuple(dict.fromkeys(map(int, words)))


@click.command("bench")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE.gguf", help="The model to measure with.")
@click.option("--shape", type=click.Choice(SHAPES), help="Or random weights of this shape (default: 1b-q8_0).")
@click.option(
    "--threads",
    callback=_counts,
    metavar="1,2,4",
    help="Numbers of threads (default: 1, half, three quarters and all of the cores).",
)
@click.option(
    "--prompt", type=click.IntRange(0), metavar="N", default=512, show_default=True, help="Prompt tokens; 0: none."
)
@click.option(
    "--generate", type=click.IntRange(0), metavar="N", default=128, show_default=True, help="Generated tokens; 0: none."
)
@click.option(
    "--rounds", type=click.IntRange(1), metavar="N", default=3, show_default=True, help="Turns of each target."
)
@click.option(
    "--repetitions", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="Measurements per turn."
)
@click.option(
    "--timeout",
    type=click.IntRange(1),
    metavar="SECONDS",
    default=3600,
    show_default=True,
    help="How long one turn may take.",
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg|.png", help="Draw speed against threads.")
@json_option("Print progress as JSON events, the result as one JSON object.")
@click.pass_obj
def bench(
    session: Session,
    /,
    *,
    targets: tuple[str, ...],
    model: Path | None,
    shape: str | None,
    threads: tuple[int, ...] | None,
    plot: Path | None,
    as_json: bool,
    **amounts: int,
) -> None:
    """Measure how fast each TARGET reads a prompt and generates text, compared with the first.

    The targets take turns, so that other work on the machine slows down all of them alike.

    \b
    TARGET is one of:
      mmojo-server.…  a server; forge builds and measures its llama-bench
      llama-bench.…   a llama-bench
      PATH            the path of a llama-bench
    """
    if model and shape:
        raise click.UsageError("Give --model or --shape, not both.")
    machine = measure.this_machine(len(os.sched_getaffinity(0)))
    wanted = bench_targets.parse(targets, session.folder)
    if plot:
        bench_plot.check_path(session.folder / plot)
    if model:
        measure.check_model(session.folder / model)
    shape_target = f"bench-model.{shape or SHAPES[-1]}"
    paths = _realise(session, [*bench_targets.targets(wanted), *([] if model else [shape_target])], as_json=as_json)
    workload = Workload(
        model=session.folder / model if model else paths[shape_target],
        threads=threads or measure.default_threads(machine.cores),
        timeout_seconds=amounts.pop("timeout"),
        **amounts,
    )
    _warn_if_busy(machine, as_json=as_json)
    reporter = _JsonProgress() if as_json else _Progress()
    contestants = bench_targets.contestants(wanted, paths)
    report = measure.measure(contestants, workload, machine, session.environment, reporter)
    if as_json:
        click.echo(json.dumps(_document(report)))
    else:
        _show(report)
    if plot:
        bench_plot.draw(report, session.folder / plot)


def _realise(session: Session, targets: Sequence[str], *, as_json: bool) -> dict[str, Path]:
    if not targets:
        # A program and a model given by their paths need no workspace.
        return {}
    settings = session.settings()
    reporter = make_reporter(settings.jobs, as_json=as_json)
    results = realise_request(session.workspace, Request.parse(targets), session.services(reporter), settings)
    return {row.target: row.path for row in results}


def _warn_if_busy(machine: BenchMachine, *, as_json: bool) -> None:
    # JSON has the load among the machine's facts.
    if machine.load < 0.5 or as_json:
        return
    cores = console.plural(machine.cores, "core")
    click.echo(f"note: load {machine.load:.1f} on {cores}; figures mean little while anything else runs", err=True)


class _Progress(BenchReporter):
    """Prints two lines per turn on stderr: what runs and about how long all will take, then the speeds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def began(self, turn: Turn) -> None:
        left = ""
        if turn.number > 1:
            seconds = (time.monotonic() - self._began) / (turn.number - 1) * (turn.of - turn.number + 1)
            left = f", about {console.format_duration(seconds)} left"
        threads = console.plural(turn.threads, "thread")
        click.echo(f"[{turn.number}/{turn.of}] round {turn.round}: {turn.contestant.name}, {threads}{left}", err=True)

    def measured(self, turn: Turn, figures: Sequence[Figures]) -> None:
        text = ", ".join(f"{figure.test} {' '.join(map(_speed, figure.speeds))} t/s" for figure in figures)
        click.echo(f"    {text}", err=True)


class _JsonProgress(BenchReporter):
    """Prints one JSON object per turn on stderr, when the turn is done: `measured`, with its speeds by test."""

    def measured(self, turn: Turn, figures: Sequence[Figures]) -> None:
        event = {
            "event": "measured",
            "time": round(time.time(), 3),
            "number": turn.number,
            "of": turn.of,
            "round": turn.round,
            "target": turn.contestant.name,
            "threads": turn.threads,
            "tokens_per_second": {figure.test: figure.speeds for figure in figures},
        }
        click.echo(json.dumps(event), err=True)


def _show(report: BenchReport) -> None:
    console.show_table(
        ("target", "threads", "test", "tokens/s", "spread", "ratio"),
        [
            (row.target, str(row.threads), row.test, _speed(row.speed.median), _range(row), f"{row.ratio.median:.3f}")
            for row in report.rows()
        ],
    )
    for best in report.best():
        row, first = best.row, report.contestants[0].name
        line = f"{row.target}: {_WORDS[row.test[:2]]} is fastest with {console.plural(row.threads, 'thread')}"
        line += f", {_speed(row.speed.median)} tokens/s"
        line += f", {best.ratio:.3f} × {first} at its fastest" if row.target != first else ""
        # In a pipe, stdout has nothing but the table.
        click.echo(line, err=not sys.stdout.isatty())


def _speed(speed: float) -> str:
    return f"{speed:.2f}"


def _range(row: Row) -> str:
    return f"{_speed(row.speed.lowest)}–{_speed(row.speed.highest)}"


def _document(report: BenchReport) -> dict[str, object]:
    """The JSON object of schema 1, which docs/bench.md describes."""
    work = report.workload
    facts = report.facts[report.contestants[0].name]
    return {
        "schema": 1,
        "machine": asdict(report.machine),
        "model": {
            "path": str(work.model),
            "type": facts.model,
            "bytes": facts.model_bytes,
            "weights": facts.model_weights,
        },
        "workload": {
            "threads": work.threads,
            "prompt": work.prompt,
            "generate": work.generate,
            "rounds": work.rounds,
            "repetitions": work.repetitions,
        },
        "targets": [
            {
                "target": contestant.name,
                "program": str(contestant.program),
                "commit": report.facts[contestant.name].commit,
                "backends": report.facts[contestant.name].backends,
            }
            for contestant in report.contestants
        ],
        "results": [{**_result(row), "ratio": asdict(row.ratio)} for row in report.rows()],
        "best": [{**_result(best.row), "ratio": best.ratio} for best in report.best()],
        "samples": [
            {
                "target": sample.target,
                "threads": sample.threads,
                "test": sample.test,
                "round": sample.round,
                "repetition": sample.repetition,
                "tokens_per_second": sample.speed,
            }
            for sample in report.samples
        ],
    }


def _result(row: Row) -> dict[str, object]:
    return {
        "target": row.target,
        "threads": row.threads,
        "test": row.test,
        "tokens_per_second": asdict(row.speed),
    }
