"""Bearer tokens (RFC 6750), which control who may write and, optionally, who may read."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from mmojo_forge.cache.server.failure import RequestRefused, ServeError

_TOKEN = re.compile(r"(?=.{16,512}$)[A-Za-z0-9._~+/-]+=*", re.ASCII)
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)
_LARGEST = 1 << 20


class Tokens:
    """A set of tokens. Only their digests stay in memory."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    @classmethod
    def read(cls, file: Path) -> Self:
        """The tokens in a file, one per line; `#` begins a comment.

        Raises ServeError (`serve-tokens`), also if anyone but the file's owner can access it.
        """
        try:
            with file.open("rb") as opened:
                status = os.fstat(opened.fileno())
                content = opened.read(_LARGEST).decode("ascii")
        except (OSError, ValueError) as error:
            raise _unusable(file, str(error), "Give a text file with one token per line.") from error
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise _unusable(file, f"other users can access it (mode {mode:o})", f"chmod 600 {file}")
        if status.st_uid not in {0, os.geteuid()}:
            raise _unusable(file, f"it belongs to user {status.st_uid}", f"chown {os.geteuid()} {file}")
        lines = [line.partition("#")[0].strip() for line in content.splitlines()]
        tokens = [line for line in lines if line]
        for at, line in enumerate(lines, 1):
            if line and not _TOKEN.fullmatch(line):
                raise _unusable(file, f"line {at} is not a token", "A token has 16 to 512 letters, digits or ._~+/-")
        if not tokens:
            raise _unusable(
                file, "it contains no token", "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        return cls(tokens)

    def holds(self, token: str) -> bool:
        """Whether the token is in the set. The time does not depend on the token, so it reveals nothing."""
        digest = _digest(token)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


class Access:
    """Access rules: `writers` may read and write, `readers` may read. Without `readers`, everybody may read."""

    def __init__(self, writers: Tokens | None = None, readers: Tokens | None = None) -> None:
        self._writers = writers
        self._readers = readers

    @property
    def writable(self) -> bool:
        """Whether anybody may write."""
        return self._writers is not None

    def check_reading(self, authorization: Sequence[str]) -> None:
        """Raise RequestRefused (401) unless these Authorization headers allow reading."""
        if self._readers is not None:
            self._check([self._readers, *([self._writers] if self._writers else [])], authorization)

    def check_writing(self, authorization: Sequence[str]) -> None:
        """Raise RequestRefused (401) unless these Authorization headers allow writing."""
        self._check([self._writers] if self._writers else [], authorization)

    def _check(self, allowed: Sequence[Tokens], authorization: Sequence[str]) -> None:
        if not authorization:
            challenge = {"WWW-Authenticate": 'Bearer realm="forge cache"'}
            raise RequestRefused(401, "token-missing", "this request needs a token", challenge)
        given = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        # Ask all sets, so that the time does not reveal which one has the token.
        if given is None or True not in [tokens.holds(given[1]) for tokens in allowed]:
            challenge = {"WWW-Authenticate": 'Bearer realm="forge cache", error="invalid_token"'}
            raise RequestRefused(401, "token-wrong", "the token does not allow this request", challenge)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _unusable(file: Path, cause: str, detail: str) -> ServeError:
    return ServeError(f"read tokens from {file}: {cause}", detail=detail, reason="serve-tokens")
