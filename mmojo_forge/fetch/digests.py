"""Several digests of one stream, in one reading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from mmojo_forge.model.digest import BlobDigest, Sha256


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known beforehand of a file: size in bytes, and hexadecimal digests by algorithm."""

    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """What a file turned out to be, and the URL (without credentials) that it came from."""

    size: int
    sha256: Sha256
    blake3: BlobDigest
    origin: str


class Digests:
    """SHA-256 and BLAKE3 of a stream, and whatever else is expected of it."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self.size = 0
        self._hashes: dict[str, _Hash] = {"sha256": hashlib.sha256(), "blake3": blake3()}
        for algorithm in algorithms:
            if algorithm not in self._hashes:
                self._hashes[algorithm] = hashlib.new(algorithm)

    def update(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        self.size += len(chunk)
        for running in self._hashes.values():
            running.update(chunk)

    def hex(self, algorithm: str) -> str:
        """The digest of all bytes so far."""
        return self._hashes[algorithm].hexdigest()

    def difference(self, expected: Expected) -> tuple[str, str] | None:
        """What was expected and what came instead, or None where all digests and the size agree."""
        for algorithm, digest in expected.digests.items():
            got = self.hex(algorithm)
            if got != digest:
                return f"{algorithm}:{digest}", f"{algorithm}:{got}"
        if expected.size is not None and expected.size != self.size:
            return f"{expected.size} bytes", f"{self.size} bytes"
        return None

    def received(self, origin: str) -> Received:
        """The outcome."""
        return Received(self.size, Sha256(self.hex("sha256")), BlobDigest(self.hex("blake3")), origin)
