"""Downloads: from a list of URLs to one verified file.

1. Each URL in turn, each with retries; whatever arrived stays in `<destination>.part`, over retries, URLs and runs.
2. A beginning that is there is continued by Range if the server's answer fits, else it is started anew.
3. Every byte is hashed when it is written; more than the expected size ends the transfer at once.
4. What is right is renamed to the destination. What is wrong is first tried once more from nothing, where its
   beginning came from elsewhere; then it is set aside as `<destination>.mismatch`, and the next URL is tried.

Where produced bytes go.

Several digests of one stream, in one reading.

The file a download grows in: hashed while it is written, and again when it is taken up where it was left.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from blake3 import blake3

from mmojo_forge.fetch.failure import FetchError, Mismatch, error_of
from mmojo_forge.model.digest import BlobDigest, Sha256
from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.stream import CHUNK, Stream, open_stream, with_retries
from mmojo_forge.net.url import redacted


class ByteSink(Protocol):
    """Takes bytes as they come."""

    def write(self, chunk: bytes, /) -> object:
        """Append."""


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


class PartFile:
    """`<destination>.part`, open. `digests` always cover exactly the bytes that are in it.

    `mixed` says that its bytes come from more than one answer, so that a wrong hash may be nobody's fault but ours.
    A beginning left by an earlier run is kept only where a digest will tell in the end whether it belonged.
    """

    def __init__(self, destination: Path, expected: Expected) -> None:
        self.path = destination.with_name(destination.name + ".part")
        self.mixed = False
        self.digests = Digests(expected.digests)
        self._destination = destination
        self._expected = expected
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._write_error(error) from error
        self._file = os.fdopen(descriptor, "r+b", buffering=0)

    def __enter__(self) -> Self:
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """How many bytes are in it."""
        return self.digests.size

    @property
    def complete(self) -> bool:
        """Whether nothing has to be downloaded any more."""
        return bool(self._expected.digests) and self.size == self._expected.size

    def write(self, chunk: bytes) -> None:
        """Append; raises FetchError (`disk-full`, `write-failed`)."""
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._write_error(error) from error
        self.digests.update(chunk)

    def restart(self) -> None:
        """Throw away what is in it."""
        self._file.seek(0)
        self._file.truncate(0)
        self.digests = Digests(self._expected.digests)
        self.mixed = False

    def finish(self) -> None:
        """Move it to the destination, replacing what is there."""
        self.path.replace(self._destination)

    def set_aside(self) -> Path:
        """Move it to `<destination>.mismatch`, and say so."""
        kept = self._destination.with_name(self._destination.name + ".mismatch")
        self.path.replace(kept)
        return kept

    def _take_up(self) -> None:
        here = os.fstat(self._file.fileno()).st_size
        limit = self._expected.size
        if not here:
            return
        if not self._expected.digests or (limit is not None and here > limit):
            self.restart()
            return
        self.mixed = True
        while chunk := self._file.read(CHUNK):
            self.digests.update(chunk)

    def _write_error(self, error: OSError) -> FetchError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return FetchError(
            f"write {self.path}: {error.strerror}",
            detail="Free some space and try again: what has arrived is kept." if full else "",
            reason="disk-full" if full else "write-failed",
        )


OnProgress = Callable[[int, int], None]
"""Called with bytes so far and in all (0 where that is unknown); what it raises ends the download."""


Candidate = str | UrlFailure
"""A URL to try, or why looking for one failed."""


@dataclass(slots=True)
class _Download:
    client: HttpClient
    destination: Path
    expected: Expected
    on_progress: OnProgress | None
    mismatch: Mismatch | None = None

    def run(self, url: str, write: Callable[[ByteSink], None] | None = None) -> Received:
        """The outcome of one URL, or of `write`; raises UrlFailure, FetchError."""
        with PartFile(self.destination, self.expected) as part:
            if not part.complete:
                with_retries(self.client, lambda: self._receive(url, part, write))
            if part.digests.difference(self.expected) and part.mixed:
                part.restart()
                with_retries(self.client, lambda: self._receive(url, part, write))
            self._verify(url, part)
            part.finish()
            return part.digests.received(redacted(url))

    def _receive(self, url: str, part: PartFile, write: Callable[[ByteSink], None] | None) -> None:
        if write is not None or not self.expected.digests:
            part.restart()
        if write is not None:
            write(_CheckedSink(self, url, part))
            return
        with open_stream(self.client, url, start=part.size) as stream:
            if stream.start != part.size:
                part.restart()
            elif part.size:
                part.mixed = True
            self._check_size(url, stream.total or 0)
            self._copy(url, stream, part)
            total = stream.total if stream.total is not None else self.expected.size
            if total is not None and part.size < total:
                raise UrlFailure(url, FailureKind.TRUNCATED, f"ended after {part.size} of {total} bytes")

    def _copy(self, url: str, stream: Stream, part: PartFile) -> None:
        total = self.expected.size or stream.total or 0
        for chunk in stream.chunks:
            self.append(url, part, chunk, total)

    def append(self, url: str, part: PartFile, chunk: bytes, total: int) -> None:
        """Take in the next bytes; raises UrlFailure where they are too many."""
        self._check_size(url, part.size + len(chunk))
        part.write(chunk)
        if self.on_progress is not None:
            self.on_progress(part.size, total)

    def _check_size(self, url: str, size: int) -> None:
        if self.expected.size is not None and size > self.expected.size:
            raise UrlFailure(url, FailureKind.TOO_LARGE, f"more than the pinned {self.expected.size} bytes")

    def _verify(self, url: str, part: PartFile) -> None:
        difference = part.digests.difference(self.expected)
        if difference is None:
            return
        expected, got = difference
        self.mismatch = Mismatch(expected, got, redacted(url), part.set_aside())
        raise UrlFailure(url, FailureKind.MISMATCH, f"expected {expected}, got {got}")


class _CheckedSink:
    """Writes to a part file as a download does: bounded by the expected size, with progress."""

    def __init__(self, job: _Download, origin: str, part: PartFile) -> None:
        self._job = job
        self._origin = origin
        self._part = part

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._job.append(self._origin, self._part, chunk, self._job.expected.size or 0)


def download(
    client: HttpClient,
    what: str,
    candidates: Iterable[Candidate],
    destination: Path,
    *,
    expected: Expected,
    on_progress: OnProgress | None = None,
) -> Received:
    """What was left at `destination`, from the first candidate that gives it; raises FetchError.

    Candidates are asked for one by one, so that looking for further ones costs nothing where the first is good.
    """
    job = _Download(client, destination, expected, on_progress)
    failures = []
    for candidate in candidates:
        if isinstance(candidate, UrlFailure):
            failures.append(candidate)
            continue
        try:
            received = job.run(candidate)
        except UrlFailure as failure:
            failures.append(failure)
            if failure.kind is FailureKind.CANCELLED:
                break
        else:
            if job.mismatch is not None and job.mismatch.kept is not None:
                job.mismatch.kept.unlink(missing_ok=True)
            return received
    if not failures:
        raise FetchError(f"fetch {what}: no place to fetch it from is known", reason="no-url")
    raise error_of(what, failures, job.mismatch)


def produce(
    client: HttpClient,
    what: str,
    origin: str,
    write: Callable[[ByteSink], None],
    destination: Path,
    *,
    expected: Expected,
    on_progress: OnProgress | None = None,
) -> Received:
    """What was left at `destination`, made by `write` instead of read from a URL; raises FetchError."""
    job = _Download(client, destination, expected, on_progress)
    try:
        return job.run(origin, write)
    except UrlFailure as failure:
        raise error_of(what, [failure], job.mismatch) from failure
