"""An executor for tests that runs nothing: it records requests, and calls a script for the results."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from mmojo_forge.executor.build_log import BuildLog
from mmojo_forge.executor.request import BuildOutcome, BuildRequest, BuildResult, CancelSignal

Script = Callable[[BuildRequest], BuildResult | bytes]


class FakeExecutor:
    """Calls a script instead of a builder.

    The script may write into `request.out`. It returns a result, or the output of a successful build as bytes.
    `requests` has every request in order. The script is not called for a build that is already cancelled.
    """

    def __init__(self, script: Script = lambda request: b"") -> None:
        self._script = script
        self._lock = threading.Lock()
        self.requests: list[BuildRequest] = []

    def run(
        self,
        request: BuildRequest,
        *,
        cancellation: CancelSignal | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> BuildResult:
        """The script's result; see Executor."""
        with self._lock:
            self.requests.append(request)
        with BuildLog(request.log, request.limits.log_bytes) as log:
            if cancellation is not None and _is_readable(cancellation):
                return BuildResult(BuildOutcome.CANCELLED, 137, 0.0)
            played = self._script(request)
            if isinstance(played, BuildResult):
                return played
            if not log.write(played):
                return BuildResult(BuildOutcome.LOG_LIMIT, 137, 0.0)
            if played and on_output is not None:
                on_output(played)
            return BuildResult(BuildOutcome.SUCCEEDED, 0, 0.0)


def _is_readable(cancellation: CancelSignal) -> bool:
    poll = select.poll()
    poll.register(cancellation.fileno(), select.POLLIN)
    return bool(poll.poll(0))
