"""Runs one llama-bench process and parses its figures."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmojo_forge.engine.errors import EngineError
from mmojo_forge.errors import ExitCode

LAST_LINES: Final = 12
_APE_MAGIC: Final = b"MZqFpD='"


class BenchError(EngineError):
    """A program could not be measured: `bench-not-runnable`, `bench-failed`, `bench-timeout` or `bench-output`."""

    exit_code = ExitCode.BUILD_FAILED


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program to measure. Its name identifies its figures and is unique in a run."""

    name: str
    program: Path

    def command(self) -> tuple[str, ...]:
        """The command that starts it; raises BenchError (`bench-not-runnable`) if the file cannot be read.

        An APE is started through `sh`, because execve refuses one that is not assimilated.
        """
        try:
            with self.program.open("rb") as file:
                is_ape = file.read(len(_APE_MAGIC)) == _APE_MAGIC
        except OSError as error:
            raise self._not_runnable(error) from error
        return ("sh", str(self.program)) if is_ape else (str(self.program),)

    def _not_runnable(self, error: OSError) -> BenchError:
        return BenchError(
            f"bench {self.name}: {self.program} cannot be started: {error.strerror}",
            detail="A program must be for this machine's system and processor.",
            reason="bench-not-runnable",
        )

    def start(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the program, in its own process group; raises BenchError (`bench-not-runnable`)."""
        try:
            return subprocess.Popen(
                [*self.command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                # A group of its own, so that a timeout also kills the shell that starts an APE.
                start_new_session=True,
            )
        except OSError as error:
            raise self._not_runnable(error) from error


@dataclass(frozen=True, slots=True)
class Figures:
    """The result of one test in one process. `speeds` has one value per repetition, in tokens per second."""

    test: str
    speeds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What llama-bench reports about itself and the model; empty or 0 if it does not."""

    commit: str = ""
    backends: str = ""
    model: str = ""
    model_bytes: int = 0
    model_weights: int = 0


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One finished process: its tests, in the order it ran them, and its facts."""

    figures: tuple[Figures, ...]
    facts: Facts


def run(
    contestant: Contestant, arguments: tuple[str, ...], environment: Mapping[str, str], timeout_seconds: float
) -> BenchRun:
    """Run llama-bench with these arguments and `-o json`; raises BenchError.

    No process of it is left when this function returns or raises.
    """
    with contestant.start((*arguments, "-o", "json"), environment) as process:
        try:
            out, err = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise _timed_out(contestant, timeout_seconds, process.communicate()[1]) from error
        except BaseException:
            _kill(process)
            raise
    if process.returncode != 0:
        raise _failed(contestant, process.returncode, err)
    return _parse(contestant, out)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and everything it started. Its group exists until the process has been waited for."""
    os.killpg(process.pid, signal.SIGKILL)


def _timed_out(contestant: Contestant, seconds: float, said: bytes) -> BenchError:
    advice = "Give it more time with --timeout, or less work with --prompt, --generate or a smaller model."
    return BenchError(
        f"bench {contestant.name}: not finished after {seconds:g} s",
        detail=f"{_last_lines(said)}{advice}",
        reason="bench-timeout",
    )


def _failed(contestant: Contestant, code: int, said: bytes) -> BenchError:
    advice = "To see more, run it yourself: llama-bench accepts -v."
    # A shell that starts an APE reports a signal as 128 + its number.
    if code in {-signal.SIGILL, 128 + signal.SIGILL}:
        cause = "it used an instruction that this processor does not have"
        advice = "Measure a program of a lower level (…-v2 runs on every x86-64 server), or use another machine."
    elif code < 0:
        cause = f"it was killed by signal {-code}"
    else:
        cause = f"it failed with exit code {code}"
    return BenchError(f"bench {contestant.name}: {cause}", detail=f"{_last_lines(said)}{advice}", reason="bench-failed")


def _last_lines(said: bytes) -> str:
    """The last lines of a program's output, indented, to show above the advice."""
    lines = said.decode(errors="replace").splitlines()[-LAST_LINES:]
    return "".join(f"    {line}\n" for line in lines)


def _parse(contestant: Contestant, out: bytes) -> BenchRun:
    """The run in llama-bench's JSON, a list of tests with the speed of every repetition; raises BenchError."""
    try:
        rows = json.loads(out)
        figures = tuple(Figures(_test_name(row), tuple(float(speed) for speed in row["samples_ts"])) for row in rows)
        facts = _facts(rows[0])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _not_understood(contestant, f"{type(error).__name__}: {error}") from error
    for test in figures:
        if not test.speeds or not all(math.isfinite(speed) and speed > 0 for speed in test.speeds):
            raise _not_understood(contestant, f"{test.test} has the speeds {list(test.speeds)}")
    return BenchRun(figures, facts)


def _test_name(row: Mapping[str, Any]) -> str:
    """The test's name in llama-bench's own tables: `pp512` or `tg128`."""
    prompt, generate = int(row["n_prompt"]), int(row["n_gen"])
    return f"pp{prompt}" if prompt else f"tg{generate}"


def _facts(row: Mapping[str, Any]) -> Facts:
    return Facts(
        str(row.get("build_commit", "")),
        str(row.get("backends", "")),
        str(row.get("model_type", "")),
        int(row.get("model_size", 0)),
        int(row.get("model_n_params", 0)),
    )


def _not_understood(contestant: Contestant, cause: str) -> BenchError:
    return BenchError(
        f"bench {contestant.name}: its output is not that of llama-bench -o json ({cause})",
        detail=f"See the output: {' '.join(contestant.command())} -m MODEL -o json",
        reason="bench-output",
    )
