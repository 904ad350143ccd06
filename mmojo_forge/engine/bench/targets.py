"""Parses what `forge bench` compares (targets by name, programs by path), and finds the llama-bench of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mmojo_forge.engine.bench.llama_bench import Contestant
from mmojo_forge.engine.errors import EngineError

PROGRAM: Final = "llama-bench"
# A server is measured by the llama-bench with the same build options.
MEASURED_BY: Final = MappingProxyType({"mmojo-server": PROGRAM, PROGRAM: PROGRAM})


@dataclass(frozen=True, slots=True)
class WantedContestant:
    """One requested contestant: either a target to realise, or an existing program."""

    name: str
    target: str = ""
    program: Path = Path()


def parse(texts: Iterable[str], folder: Path) -> tuple[WantedContestant, ...]:
    """The requested contestants, in order. A text with a slash is a path relative to `folder`, any other a target.

    The same text twice is a valid request: it shows how much figures vary by themselves. Raises EngineError
    (`no-program`, `not-benchable`).
    """
    wanted: list[WantedContestant] = []
    for text in texts:
        taken = {contestant.name for contestant in wanted}
        name = next(name for name in (text, *(f"{text}#{n}" for n in range(2, 1000))) if name not in taken)
        wanted.append(_program(name, folder / text) if "/" in text else WantedContestant(name, _target(text)))
    return tuple(wanted)


def targets(wanted: Iterable[WantedContestant]) -> tuple[str, ...]:
    """The targets to realise, without duplicates."""
    return tuple(dict.fromkeys(contestant.target for contestant in wanted if contestant.target))


def contestants(wanted: Iterable[WantedContestant], realised: Mapping[str, Path]) -> tuple[Contestant, ...]:
    """The contestants. `realised` has the result path of each target. Raises EngineError (`no-program`)."""
    return tuple(
        Contestant(entry.name, _program_of(entry.target, realised[entry.target]) if entry.target else entry.program)
        for entry in wanted
    )


def _target(text: str) -> str:
    package, dot, variant = text.partition(".")
    if package not in MEASURED_BY:
        raise EngineError(
            f"bench {text}: this target runs no models",
            detail="Name a target mmojo-server.… or llama-bench.…, or a llama-bench program by a path with a slash.",
            reason="not-benchable",
        )
    return f"{MEASURED_BY[package]}{dot}{variant}"


def _program(name: str, path: Path) -> WantedContestant:
    path = path.resolve()
    if not path.is_file():
        raise EngineError(
            f"bench {name}: there is no program {path}",
            detail="An argument with a slash must be the path of a llama-bench program.",
            reason="no-program",
        )
    return WantedContestant(name, program=path)


def _program_of(target: str, result: Path) -> Path:
    """The llama-bench in a result: the result itself if it is one file, else the one in its bin/."""
    program = result / "bin" / PROGRAM if result.is_dir() else result
    if not program.is_file():
        raise EngineError(
            f"bench {target}: {result} has no bin/{PROGRAM}",
            detail="A program must be for this machine's system. `forge list` shows all targets.",
            reason="no-program",
        )
    return program
