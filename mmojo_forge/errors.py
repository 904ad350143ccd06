"""The one exception base: an operation on an object failed for a cause, and here is what to do next.

Concrete classes live beside the code that raises them; ARCHITECTURE.md has their tree.

A failed *build* is a value (`BuildResult`); an exception means the operation asked for cannot go on.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a `forge` process ends with."""

    DONE = 0
    BUILD_FAILED = 1
    INPUT_ERROR = 2
    ENVIRONMENT_ERROR = 3
    INTERRUPTED = 130


class ForgeError(Exception):
    """An operation that could not be done.

    `message` reads "operation object: cause"; `detail` says what to do next; `reason` is the stable,
    machine-readable name of the failure that tests and `--json` output rely on.
    """

    exit_code = ExitCode.INPUT_ERROR

    def __init__(self, message: str, *, detail: str = "", reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.message}\n{self.detail}" if self.detail else self.message
