"""What `forge bench` is asked to compare: targets by name, or programs by path, and where their llama-bench lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mmojo_forge.engine.bench.llama_bench import Contestant
from mmojo_forge.engine.errors import EngineError

PROGRAM: Final = "llama-bench"
# A server is measured by the llama-bench that is built as it is.
MEASURED_BY: Final = MappingProxyType({"mmojo-server": PROGRAM, PROGRAM: PROGRAM})


@dataclass(frozen=True, slots=True)
class WantedContestant:
    """One contestant as asked for: a target that has to be realised, or a program that is there already."""

    name: str
    target: str = ""
    program: Path = Path()


def parse(texts: Iterable[str], folder: Path) -> tuple[WantedContestant, ...]:
    """What is wanted, in order; paths (what has a slash) are seen from `folder`. Raises EngineError (`no-program`,
    `not-benchable`). The same text twice is the same program twice, and shows how much figures vary by themselves.
    """
    wanted: list[WantedContestant] = []
    for text in texts:
        taken = {one.name for one in wanted}
        name = next(name for name in (text, *(f"{text}#{n}" for n in range(2, 1000))) if name not in taken)
        wanted.append(_program(name, folder / text) if "/" in text else WantedContestant(name, _target(text)))
    return tuple(wanted)


def targets(wanted: Iterable[WantedContestant]) -> tuple[str, ...]:
    """The targets to realise, each once."""
    return tuple(dict.fromkeys(one.target for one in wanted if one.target))


def contestants(wanted: Iterable[WantedContestant], realised: Mapping[str, Path]) -> tuple[Contestant, ...]:
    """The contestants, once all targets are `realised`; raises EngineError (`no-program`)."""
    return tuple(
        Contestant(one.name, _program_of(one.target, realised[one.target]) if one.target else one.program)
        for one in wanted
    )


def _target(text: str) -> str:
    package, dot, variant = text.partition(".")
    if package not in MEASURED_BY:
        raise EngineError(
            f"bench {text}: it runs no models",
            detail="Name targets mmojo-server.… or llama-bench.…, or a llama-bench program by a path with a slash.",
            reason="not-benchable",
        )
    return f"{MEASURED_BY[package]}{dot}{variant}"


def _program(name: str, path: Path) -> WantedContestant:
    path = path.resolve()
    if not path.is_file():
        raise EngineError(
            f"bench {name}: there is no program {path}",
            detail="What has a slash is taken for the path of a llama-bench program.",
            reason="no-program",
        )
    return WantedContestant(name, program=path)


def _program_of(target: str, result: Path) -> Path:
    """The llama-bench in a result: the result itself if it is one file, or that in its bin/."""
    program = result / "bin" / PROGRAM if result.is_dir() else result
    if not program.is_file():
        raise EngineError(
            f"bench {target}: {result} has no bin/{PROGRAM}",
            detail="Only programs for this machine's system can be measured on it; `forge list` shows all targets.",
            reason="no-program",
        )
    return program
