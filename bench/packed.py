"""`python -m bench packed`: compare a server with its model inside to the same server with the model beside it.

Both run in turn. Start-up is the time from the command to the first answer that the model is loaded. Memory is what the
kernel reports after a completion: RSS, which includes the mapped model, and anonymous memory. The latter would show a
second copy of the model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.forge import REPOSITORY
from tests.support.packed import ARGUMENTS, package, running, start_of

_COMPLETION = {"prompt": "Once upon a time there was a ferry that", "n_predict": 32}


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds until the server answered, and bytes of memory that it used."""

    seconds: float
    resident: int
    anonymous: int


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench packed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="mmojo-server.ape", help="a target, or the path of a program")
    parser.add_argument("--model", default="bench-model.1b-q8_0", help="a target, or the path of a model")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="forge-bench-") as scratch:
        measure(Path(scratch), _realized(given.server), _realized(given.model), given.rounds)


def _realized(target: str) -> Path:
    if "/" in target:
        return Path(target)
    command = [str(REPOSITORY / "forge"), "realize", "--quiet", "--no-link", target]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def measure(folder: Path, program: Path, model: Path, rounds: int) -> None:
    """Measure both, `rounds` times in turn: each first with an empty cache of slices, then with a full one."""
    (folder / "args").write_text(ARGUMENTS)
    # Copied, not linked: how a file came into the page cache decides how fast it is mapped.
    shutil.copyfile(model, folder / "model.gguf")
    inside, beside = folder / "inside.ape", folder / "beside.ape"
    package(program, inside, "--model", folder / "model.gguf", "--args", folder / "args")
    package(program, beside, "--args", folder / "args")
    starts = {"inside": (inside, ()), "beside": (beside, ("--model", str(folder / "model.gguf")))}
    first: dict[str, list[Run]] = {name: [] for name in starts}
    later: dict[str, list[Run]] = {name: [] for name in starts}
    for _ in range(rounds):
        for name, (file, more) in starts.items():
            shutil.rmtree(folder / "cache", ignore_errors=True)
            first[name].append(_run(file, more, folder))
            later[name].append(_run(file, more, folder))
    print("| | model inside | model beside | ratio |\n|---|---|---|---|")
    for what, runs, field, unit in (
        ("first start (unpacks the slice)", first, "seconds", 1),
        ("later start", later, "seconds", 1),
        ("RSS after a completion, MB", later, "resident", 1_000_000),
        ("anonymous part of it, MB", later, "anonymous", 1_000_000),
    ):
        values = {name: [getattr(run, field) / unit for run in runs[name]] for name in starts}
        cells = [_cell(values[name], " s" if field == "seconds" else "") for name in starts]
        ratio = statistics.median(values["inside"]) / statistics.median(values["beside"])
        print(f"| {what} | {cells[0]} | {cells[1]} | {ratio:.3f} × |")
    sizes = [f"{path.stat().st_size / 1e6:.1f}" for path in (inside, beside)]
    print(f"| file, MB (the model: {model.stat().st_size / 1e6:.1f}) | {sizes[0]} | {sizes[1]} | |")


def _run(file: Path, more: Sequence[str], folder: Path) -> Run:
    environment = {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": os.environ["PATH"]}
    with running([*start_of(file), *more], folder / "log", environment=environment) as server:
        status, content, _ = server.ask("/completion", _COMPLETION)
        if status != 200:
            raise SystemExit(content.decode(errors="replace"))
        rollup = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
        numbers = {line.split()[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
        return Run(server.seconds, numbers["Rss:"], numbers["Anonymous:"])


def _cell(values: Sequence[float], unit: str) -> str:
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"
