"""Errors of the engine: a build that failed, an output that is not what it must be, a run that was stopped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.errors import ExitCode, ForgeError


class EngineError(ForgeError):
    """A realisation that cannot go on."""


class BadOutput(EngineError):
    """A build that ended well but left an output missing, or one that cannot be stored."""

    exit_code = ExitCode.BUILD_FAILED


class NotBuilt(EngineError):
    """A target or node that has to be built before `operation` can be done; `words` build it."""

    def __init__(self, operation: str, name: str, words: Sequence[str]) -> None:
        super().__init__(
            f"{operation} {name}: it is not built",
            detail=f"Build it with `forge realize {shlex.join(words)}`.",
            reason="not-built",
        )


class Interrupted(EngineError):
    """The user stopped the run; every process of every build is dead and the store is clean."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True, slots=True)
class Failure:
    """One node that could not be realised: why, the last lines of its log, and where to look further."""

    name: str
    message: str
    reason: str
    detail: str = ""
    last_lines: tuple[str, ...] = ()
    log: Path | None = None
    kept: Path | None = None
    exit_code: ExitCode = ExitCode.BUILD_FAILED


class BuildsFailed(EngineError):
    """One or more nodes failed; `failures` tells each, `blocked` names what could not be tried because of them."""

    exit_code = ExitCode.BUILD_FAILED

    def __init__(self, failures: tuple[Failure, ...], blocked: tuple[str, ...]) -> None:
        first = failures[0]
        self.failures = failures
        self.blocked = blocked
        self.exit_code = max((failure.exit_code for failure in failures), default=ExitCode.BUILD_FAILED)
        super().__init__(
            "\n".join(_describe(failure) for failure in failures), detail=_left(blocked), reason=first.reason
        )


def _describe(failure: Failure) -> str:
    lines = [failure.message]
    lines += [f"    {line}" for line in failure.last_lines]
    if failure.log:
        lines.append(f"  whole log:  {failure.log}  (forge log {failure.name})")
    if failure.kept:
        lines.append(f"  look inside: forge shell {failure.name}  (the sandbox as it was left: {failure.kept})")
    if failure.detail:
        lines.append(f"  {failure.detail}")
    return "\n".join(lines)


def _left(blocked: tuple[str, ...]) -> str:
    if not blocked:
        return ""
    return f"Not tried, since they need it: {', '.join(blocked[:8])}{' …' if len(blocked) > 8 else ''}"
