"""How a cache fails: each error has a reason, and a fault that says what a caller should think of the cache."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.errors import ExitCode, ForgeError


class CacheFault(StrEnum):
    """What an error says about the cache that gave it."""

    MISSING = "missing"
    """It does not have this, and says so."""
    FAILING = "failing"
    """It does not answer, not in time, not to the end, or with an error of its own."""
    LYING = "lying"
    """What it gave is not what it must be. None of that was handed on."""
    REFUSING = "refusing"
    """It does not let us: no permission, no such ability."""
    OURS = "ours"
    """What was to be written to it is not what it must be."""


class CacheError(ForgeError):
    """A cache that did not do what it was asked. Whoever only wants to save work takes it for a miss.

    Reasons, by fault:

        missing     cache-missing
        failing     cache-unreachable cache-timeout cache-slow cache-truncated cache-server-error cache-io
        refusing    cache-refused cache-read-only cache-no-listing cache-url cache-path
        ours        push-mismatch push-unsigned
        lying       cache-redirect cache-schema cache-too-large cache-malformed cache-frame
                    manifest-mismatch manifest-invalid manifest-size
                    map-mismatch map-invalid chunk-mismatch blob-mismatch
                    trace-malformed trace-wrong-key trace-wrong-signer trace-unknown-signer trace-bad-signature
    """

    exit_code = ExitCode.ENVIRONMENT_ERROR

    def __init__(self, message: str, *, reason: str, fault: CacheFault, detail: str = "") -> None:
        super().__init__(message, detail=detail, reason=reason)
        self.fault = fault


def missing(place: str, path: str) -> CacheError:
    """The error for what a cache does not have."""
    return CacheError(f"read {path} from {place}: it is not there", reason="cache-missing", fault=CacheFault.MISSING)


def lying(place: str, path: str, cause: str, reason: str) -> CacheError:
    """The error for what a cache gave and must not be used."""
    return CacheError(f"read {path} from {place}: {cause}", reason=reason, fault=CacheFault.LYING)


def truncated(place: str, path: str, got: int, expected: int) -> CacheError:
    """The error for an answer that ended early."""
    return CacheError(
        f"read {path} from {place}: ended after {got:,} of {expected:,} bytes",
        reason="cache-truncated",
        fault=CacheFault.FAILING,
    )
