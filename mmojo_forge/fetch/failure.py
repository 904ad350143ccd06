"""FetchError, and how `error_of` makes one from the failure (UrlFailure) of each URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.errors import ExitCode, ForgeError
from mmojo_forge.net.failure import FailureKind, UrlFailure

_REASONS = MappingProxyType(
    {FailureKind.CONNECT_TIMEOUT: FailureKind.UNREACHABLE, FailureKind.SLOW: FailureKind.STALLED}
)
"""Kinds that share the reason and advice of another kind. For all others the kind's value is the reason."""

# Reasons whose cause is this machine and not the input; they end forge with ENVIRONMENT_ERROR.
_OF_THE_MACHINE = frozenset(
    {"network-unreachable", "server-stalled", "disk-full", "write-failed", "cancelled", "state-unwritable"}
    | {"apt-missing", "git-missing", "debian-mirror-unknown", "debian-keyring-missing", "npm-registry-unknown"}
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Content that differs from its pin: both digests (`algorithm:hex`), the URL it came from, and where it is kept."""

    expected: str
    got: str
    origin: str
    kept: Path | None


class FetchError(ForgeError):
    """A source that cannot be fetched, or differs from its pin. `attempts` lists (URL, cause) in the order tried."""

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        reason: str,
        attempts: Sequence[tuple[str, str]] = (),
        mismatch: Mismatch | None = None,
    ) -> None:
        super().__init__(message, detail=detail, reason=reason)
        self.attempts = tuple(attempts)
        self.mismatch = mismatch
        if reason in _OF_THE_MACHINE:
            self.exit_code = ExitCode.ENVIRONMENT_ERROR


_ADVICE = MappingProxyType(
    {
        FailureKind.MISMATCH: "forge did not store the content. If upstream changed the file on purpose, run "
        "forge lock --update NAME.",
        FailureKind.TOO_LARGE: "The server sends more than the pinned size, so it is another file. "
        "forge did not store it.",
        FailureKind.INSECURE: "forge never follows a redirect from https to http.",
        FailureKind.UNREACHABLE: "Check the network and the proxy settings (https_proxy), or use a cache "
        "that has the content.",
        FailureKind.STALLED: "The server is too slow. Try again later: forge continues the partial download.",
        FailureKind.TRUNCATED: "The connection breaks off. Try again: forge continues the partial download.",
    }
)


def error_of(what: str, failures: Sequence[UrlFailure], mismatch: Mismatch | None = None) -> FetchError:
    """The error that says why no URL delivered `what`; `failures` must not be empty.

    The kinds have an order (FailureKind); the reason is the first kind that occurred.
    """
    kinds = {_REASONS.get(failure.kind, failure.kind) for failure in failures}
    kind = next(kind for kind in FailureKind if kind in kinds)
    if kind is FailureKind.CANCELLED:
        return FetchError("fetch: cancelled", reason=kind.value)
    tried = "\n".join(f"  {failure}" for failure in failures)
    kept = f"\nThe content is kept at {mismatch.kept}." if mismatch and mismatch.kept else ""
    return FetchError(
        f"fetch {what}: {_headline(kind, failures, mismatch)}",
        detail=f"{_ADVICE.get(kind, '')}{kept}\nTried:\n{tried}".strip(),
        reason=kind.value,
        attempts=[(failure.url, failure.cause) for failure in failures],
        mismatch=mismatch,
    )


def _headline(kind: FailureKind, failures: Sequence[UrlFailure], mismatch: Mismatch | None) -> str:
    if kind is FailureKind.MISMATCH and mismatch is not None:
        return f"expected {mismatch.expected}, got {mismatch.got} from {mismatch.origin}"
    return next(failure.cause for failure in failures if _REASONS.get(failure.kind, failure.kind) is kind)
