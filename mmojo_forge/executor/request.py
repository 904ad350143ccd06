"""Requests and results of an executor, as plain values, and the protocol of an executor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.model.derivation import Limits

WORK = "/build"
OUT = "/forge/out"

# Paths that the sandbox itself provides. No input may be at or below one of them.
_RESERVED = ("/proc", "/dev", "/tmp", WORK, OUT, "/bin", "/sbin", "/lib", "/lib64")
# Files below the paths above that show the machine. A mount may hide them.
_HIDEABLE = ("/proc/cpuinfo",)
# Paths that no input may replace. Inputs may be below the folders among them.
_SHARED = ("/", "/etc", "/forge", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts")


class ExecutorError(ForgeError):
    """This machine cannot make the sandbox. `reason` says why, and `detail` what to do about it."""

    exit_code = ExitCode.ENVIRONMENT_ERROR


class BadRequestError(ExecutorError):
    """A request that no executor can run: a mount over `/proc`, a variable with a NUL, no command."""

    exit_code = ExitCode.INPUT_ERROR


@dataclass(frozen=True, slots=True)
class Mount:
    """A read-only input: the file or directory `source` on this machine, mounted at `at` in the sandbox."""

    source: Path
    at: str


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A complete description of one build; raises BadRequestError if it is invalid.

    `work` is an existing empty directory on this machine that becomes `/build`; `out` becomes `/forge/out`. Both belong
    to the caller, who reads `out` afterwards. `env` is the whole environment except `PWD`, which is always `/build`.
    `log` is the file for stdout and stderr, compressed with zstd. Executors may assume that the mounts' paths are
    absolute and normalised, and overlap neither each other nor the sandbox's own paths.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    work: Path
    out: Path
    log: Path
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise self._refusal("there is no command", "empty-command")
        if any("\0" in text for text in (*self.argv, *self.env, *self.env.values())):
            raise self._refusal("the command or the environment contains a NUL", "nul-character")
        if any(not key or "=" in key for key in self.env):
            raise self._refusal("a variable has no name, or has '=' in its name", "bad-variable")
        if self.env.get("PWD", WORK) != WORK:
            raise self._refusal(f"PWD is always {WORK}", "bad-variable")
        if not all(path.is_absolute() for path in (self.work, self.out, self.log)):
            raise self._refusal("work, out and log must be absolute paths", "relative-path")
        self._check_mounts()

    def to_json(self) -> dict[str, Any]:
        """The complete request as a JSON value, for another process or a later one."""
        return {
            "name": self.name,
            "argv": list(self.argv),
            "env": dict(self.env),
            "mounts": [[str(mount.source), mount.at] for mount in self.mounts],
            "work": str(self.work),
            "out": str(self.out),
            "log": str(self.log),
            "limits": asdict(self.limits),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The request in a JSON value from `to_json`; raises BadRequestError, and KeyError where a field is missing."""
        return cls(
            name=document["name"],
            argv=tuple(document["argv"]),
            env=document["env"],
            mounts=tuple(Mount(Path(source), at) for source, at in document["mounts"]),
            work=Path(document["work"]),
            out=Path(document["out"]),
            log=Path(document["log"]),
            limits=Limits(**document["limits"]),
        )

    def _check_mounts(self) -> None:
        places = sorted((mount.at for mount in self.mounts), key=lambda at: at.split("/"))
        for mount in self.mounts:
            if not mount.source.is_absolute():
                raise self._refusal(f"the mount source is not absolute: {mount.source}", "relative-path")
            if not _is_free(mount.at):
                raise self._refusal(f"nothing can be mounted at {mount.at!r}", "bad-mount")
        for before, after in itertools.pairwise(places):
            if after == before or after.startswith(before + "/"):
                raise self._refusal(f"mount {after!r} is inside mount {before!r}", "bad-mount")

    def _refusal(self, cause: str, reason: str) -> BadRequestError:
        return BadRequestError(f"build {self.name}: {cause}", reason=reason)


class BuildOutcome(StrEnum):
    """How a build ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SIGNALLED = "signalled"
    WALL_LIMIT = "wall-limit"
    SILENCE_LIMIT = "silence-limit"
    MEMORY_LIMIT = "memory-limit"
    PROCESS_LIMIT = "process-limit"
    OUTPUT_LIMIT = "output-limit"
    LOG_LIMIT = "log-limit"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build. Every process of the build is dead by then.

    `exit_code` is the builder's own, 128 + signal, 127 if the builder cannot be executed, or 137 if a limit or the
    caller ended it. `seconds` is wall time. `peak_memory_bytes` is the highest measured sum of memory, or 0 if the
    build ended before the first measurement.
    """

    outcome: BuildOutcome
    exit_code: int
    seconds: float
    peak_memory_bytes: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the builder ended by itself with exit code 0."""
        return self.outcome is BuildOutcome.SUCCEEDED


class CancelSignal(Protocol):
    """Tells an executor to stop a running build."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the build is to stop."""


class Executor(Protocol):
    """Runs builds. Safe to call from several threads at once."""

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        """The result of the build; `on_output` gets chunks of its output as they arrive.

        Raises ExecutorError if the sandbox cannot be made; a failed builder is a result. After any exception, also one
        from `on_output`, every process of the build is dead.
        """


def _is_free(at: str) -> bool:
    """Whether an input may be mounted at this path."""
    path = PurePosixPath(at)
    if not path.is_absolute() or str(path) != at or at.startswith("//") or ".." in path.parts or "\0" in at:
        return False
    if at in _HIDEABLE:
        return True
    return at not in _SHARED and not any(at == taken or at.startswith(taken + "/") for taken in _RESERVED)
