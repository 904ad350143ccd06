"""The one exception of an HTTP exchange; its kind tells a caller what to do about it."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.net.url import redacted, redacted_text

_LONGEST_CAUSE = 300


class FailureKind(StrEnum):
    """How one URL failed. `fetch` uses the values as reasons.

    The order matters: where several URLs failed, `fetch` reports the kind that comes first here.
    """

    CANCELLED = "cancelled"
    MISMATCH = "hash-mismatch"
    TOO_LARGE = "size-exceeded"
    INSECURE = "insecure-redirect"
    REDIRECTS = "too-many-redirects"
    UNREACHABLE = "network-unreachable"
    CONNECT_TIMEOUT = "connect-timeout"
    STALLED = "server-stalled"
    SLOW = "server-slow"
    TRUNCATED = "truncated"
    SERVER = "server-error"
    REFUSED = "request-refused"
    GONE = "not-found"


TRANSIENT = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.STALLED,
        FailureKind.SLOW,
        FailureKind.TRUNCATED,
        FailureKind.SERVER,
    }
)
"""Failures that a retry may cure."""


class UrlFailure(Exception):
    """A request to one URL that failed. `retry_after` is the pause that the server asked for, in seconds."""

    def __init__(self, url: str, kind: FailureKind, cause: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{redacted(url)}: {cause}")
        self.url = redacted(url)
        self.kind = kind
        self.cause = cause
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether a retry makes sense."""
        return self.kind in TRANSIENT


def innermost_cause(error: BaseException) -> str:
    """The innermost cause, in short. The outer exceptions only repeat the URL and show object addresses."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (redacted_text(str(error)) or type(error).__name__)[:_LONGEST_CAUSE]
