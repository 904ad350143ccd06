"""One llama-bench process: how a contestant is started, and the figures it prints."""

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
    """A program that could not be measured: `bench-not-runnable`, `-failed`, `-timeout` or `-output`."""

    exit_code = ExitCode.BUILD_FAILED


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program to measure, by the name its figures go by. No two of a run have the same name."""

    name: str
    program: Path

    def command(self) -> tuple[str, ...]:
        """The words that start it; raises BenchError (`bench-not-runnable`) if it cannot be read.

        A bare execve refuses an APE that is not assimilated; every shell knows what to do with it.
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
            detail="Only programs for this machine's system and processor can be measured on it.",
            reason="bench-not-runnable",
        )

    def start(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """The running program, leader of a process group of its own; raises BenchError (`bench-not-runnable`)."""
        try:
            return subprocess.Popen(
                [*self.command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise self._not_runnable(error) from error


@dataclass(frozen=True, slots=True)
class Figures:
    """What one test of one process came to: `speeds` in tokens per second, one of each repetition."""

    test: str
    speeds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a llama-bench says of itself and of the model; empty or 0 where it does not say."""

    commit: str = ""
    backends: str = ""
    model: str = ""
    model_bytes: int = 0
    model_weights: int = 0


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One finished process: its tests, in the order it ran them, and what it said of itself."""

    figures: tuple[Figures, ...]
    facts: Facts


def run(
    contestant: Contestant, arguments: tuple[str, ...], environment: Mapping[str, str], timeout_seconds: float
) -> BenchRun:
    """The figures of one llama-bench process with these arguments and `-o json`; raises BenchError.

    Whatever happens, no process of it is left when this returns.
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
    """End the process and all that it started; its group lives as long as it has not been waited for."""
    os.killpg(process.pid, signal.SIGKILL)


def _timed_out(contestant: Contestant, seconds: float, said: bytes) -> BenchError:
    advice = "Give it more time with --timeout, or less to do with --prompt, --generate or a smaller model."
    return BenchError(
        f"bench {contestant.name}: not done after {seconds:g} s",
        detail=f"{_last_lines(said)}{advice}",
        reason="bench-timeout",
    )


def _failed(contestant: Contestant, code: int, said: bytes) -> BenchError:
    advice = "Run it by hand to see more: llama-bench takes -v."
    # A shell that starts an APE reports a signal as 128 + its number.
    if code in {-signal.SIGILL, 128 + signal.SIGILL}:
        cause = "it met an instruction that this processor does not have"
        advice = "Measure a lower level (…-v2 runs on every x86-64 server), or on another machine."
    elif code < 0:
        cause = f"it was killed by signal {-code}"
    else:
        cause = f"it ended with exit code {code}"
    return BenchError(f"bench {contestant.name}: {cause}", detail=f"{_last_lines(said)}{advice}", reason="bench-failed")


def _last_lines(said: bytes) -> str:
    """The end of what a program printed, as lines to show above an advice."""
    lines = said.decode(errors="replace").splitlines()[-LAST_LINES:]
    return "".join(f"    {line}\n" for line in lines)


def _parse(contestant: Contestant, out: bytes) -> BenchRun:
    """The run that llama-bench's JSON tells of: a list of tests, each with the speed of every repetition."""
    try:
        rows = json.loads(out)
        figures = tuple(Figures(_test_name(row), tuple(float(speed) for speed in row["samples_ts"])) for row in rows)
        facts = _facts(rows[0])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _not_understood(contestant, f"{type(error).__name__}: {error}") from error
    for one in figures:
        if not one.speeds or not all(math.isfinite(speed) and speed > 0 for speed in one.speeds):
            raise _not_understood(contestant, f"{one.test} has the speeds {list(one.speeds)}")
    return BenchRun(figures, facts)


def _test_name(row: Mapping[str, Any]) -> str:
    """As llama-bench's own tables call it: `pp512` or `tg128`."""
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
        detail=f"Look at it: {' '.join(contestant.command())} -m MODEL -o json",
        reason="bench-output",
    )
