"""The engine's errors: a failed build, a bad output, a target that is not built, an interrupted run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.errors import ExitCode, ForgeError


class EngineError(ForgeError):
    """The base class: an operation of the engine failed."""


class BadOutput(EngineError):
    """The builder succeeded, but an output is missing or the store cannot accept it."""

    exit_code = ExitCode.BUILD_FAILED


class NotBuilt(EngineError):
    """`operation` needs a target or node that is not built.

    `words` are the arguments of the `forge realize` command that builds it.
    """

    def __init__(self, operation: str, name: str, words: Sequence[str]) -> None:
        super().__init__(
            f"{operation} {name}: it is not built",
            detail=f"Build it with `forge realize {shlex.join(words)}`.",
            reason="not-built",
        )


class Interrupted(EngineError):
    """The user stopped the run. All build processes have ended and the store is consistent."""

    exit_code = ExitCode.INTERRUPTED


@dataclass(frozen=True, slots=True)
class Failure:
    """One node that failed, with the end of its log.

    `log` is the complete log. `kept` is the folder of the failed build, for `forge shell`.
    """

    name: str
    message: str
    reason: str
    detail: str = ""
    last_lines: tuple[str, ...] = ()
    log: Path | None = None
    kept: Path | None = None
    exit_code: ExitCode = ExitCode.BUILD_FAILED


class BuildsFailed(EngineError):
    """One or more nodes failed. `blocked` names the nodes that were not tried because they need a failed one."""

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
        lines.append(f"  look inside: forge shell {failure.name}  (opens the failed build's sandbox: {failure.kept})")
    if failure.detail:
        lines.append(f"  {failure.detail}")
    return "\n".join(lines)


def _left(blocked: tuple[str, ...]) -> str:
    if not blocked:
        return ""
    return f"Not tried, because they need it: {', '.join(blocked[:8])}{' …' if len(blocked) > 8 else ''}"
