"""Errors of a cache. Each has a reason, and a fault that tells the caller how to treat the cache from now on."""

from __future__ import annotations

from enum import StrEnum

from mmojo_forge.errors import ExitCode, ForgeError


class CacheFault(StrEnum):
    """What an error says about the cache."""

    MISSING = "missing"
    """The cache says that it does not have the object."""
    FAILING = "failing"
    """The cache does not answer, answers too late or only in part, or reports an error of its own."""
    LYING = "lying"
    """The cache sent data that fails verification. None of the data was passed on."""
    REFUSING = "refusing"
    """The cache does not permit the operation, or does not support it."""
    OURS = "ours"
    """The data to be written fails verification on our side."""


class CacheError(ForgeError):
    """A cache operation that failed. A caller that only wants to save work can treat it as a miss.

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
    """The error for an object that a cache does not have."""
    return CacheError(f"read {path} from {place}: not found", reason="cache-missing", fault=CacheFault.MISSING)


def lying(place: str, path: str, cause: str, reason: str) -> CacheError:
    """The error for data that failed verification."""
    return CacheError(f"read {path} from {place}: {cause}", reason=reason, fault=CacheFault.LYING)


def truncated(place: str, path: str, got: int, expected: int) -> CacheError:
    """The error for an answer that ended early."""
    return CacheError(
        f"read {path} from {place}: ended after {got:,} of {expected:,} bytes",
        reason="cache-truncated",
        fault=CacheFault.FAILING,
    )
