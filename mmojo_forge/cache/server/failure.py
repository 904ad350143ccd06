"""Errors of a server: it cannot start (ServeError), refuses a request (RequestRefused), or cannot answer (Hopeless)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mmojo_forge.errors import ForgeError


class ServeError(ForgeError):
    """The server cannot start with these settings.

    Reasons: serve-folder serve-listen serve-plain serve-tokens serve-tls
    """

    def __init__(self, message: str, *, reason: str, detail: str = "") -> None:
        super().__init__(message, detail=detail, reason=reason)


class RequestRefused(Exception):
    """The server refuses a request with a status (RFC 9110), a reason for programs and a message for people.

    Reasons, by status:

        400  bad-request
        401  token-missing token-wrong
        404  not-found
        405  method read-only
        408  too-slow
        409  written-once
        412  already-there precondition
        413  too-large
        415  encoded
        416  range
        417  expectation
        422  pack-mismatch blob-mismatch manifest-mismatch name-mismatch, and reasons of CacheErrors that are `lying`
        500  io
        503  crowded folder
        507  full
    """

    def __init__(
        self, status: int, reason: str, message: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = headers


class Hopeless(Exception):
    """The exchange cannot be answered any more: the client is gone, too slow, or already has half of an answer."""
