"""How an exchange over a network fails: one exception, whose kind says what a caller can do about it."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.net.url import redacted, redacted_text

_LONGEST_CAUSE = 300


class FailureKind(StrEnum):
    """How one URL failed. `fetch` uses the values as reasons.

    Where several URLs failed in several ways, the first kind of this list says most.
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
"""What may be better a moment later."""


class UrlFailure(Exception):
    """One URL that did not give what it was asked for. `retry_after` is what the server asked for, in seconds."""

    def __init__(self, url: str, kind: FailureKind, cause: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{redacted(url)}: {cause}")
        self.url = redacted(url)
        self.kind = kind
        self.cause = cause
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether another try makes sense."""
        return self.kind in TRANSIENT


def innermost_cause(error: BaseException) -> str:
    """The innermost cause in a few words: the outer ones repeat the URL and object addresses."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (redacted_text(str(error)) or type(error).__name__)[:_LONGEST_CAUSE]
