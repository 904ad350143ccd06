"""Downloads: turns a list of URLs into one verified file.

1. It tries each URL in turn, with retries. The bytes so far stay in `<destination>.part` over retries, URLs and runs.
2. It continues a partial download by Range if the server's answer fits; otherwise it starts over.
3. It hashes every byte as it is written. More bytes than expected end the transfer at once.
4. It renames correct content to the destination. If wrong content came from several responses, it downloads the file
   once more from the start. Content that is still wrong moves to `<destination>.mismatch`, and the next URL is tried.

Digests computes all digests of a stream in one pass. PartFile is the partial download. `download` reads from URLs;
`produce` takes the bytes from a callback (git archives) and verifies them in the same way.
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
    """Where `produce` writes its bytes."""

    def write(self, chunk: bytes, /) -> object:
        """Append the chunk."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Expected:
    """The known properties of a file before its download: size in bytes, and hexadecimal digests by algorithm."""

    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """Size in bytes and digests of a received file, and the URL (without credentials) that it came from."""

    size: int
    sha256: Sha256
    blake3: BlobDigest
    origin: str


class Digests:
    """Computes SHA-256, BLAKE3 and further `algorithms` of a stream in one pass."""

    def __init__(self, algorithms: Iterable[str] = ()) -> None:
        self.size = 0
        self._hashes: dict[str, _Hash] = {"sha256": hashlib.sha256(), "blake3": blake3()}
        for algorithm in algorithms:
            if algorithm not in self._hashes:
                self._hashes[algorithm] = hashlib.new(algorithm)

    def update(self, chunk: bytes) -> None:
        """Hash the next bytes."""
        self.size += len(chunk)
        for running in self._hashes.values():
            running.update(chunk)

    def hex(self, algorithm: str) -> str:
        """The hexadecimal digest of all bytes so far."""
        return self._hashes[algorithm].hexdigest()

    def difference(self, expected: Expected) -> tuple[str, str] | None:
        """The first difference as (expected, received), or None if all digests and the size agree."""
        for algorithm, digest in expected.digests.items():
            got = self.hex(algorithm)
            if got != digest:
                return f"{algorithm}:{digest}", f"{algorithm}:{got}"
        if expected.size is not None and expected.size != self.size:
            return f"{expected.size} bytes", f"{self.size} bytes"
        return None

    def received(self, origin: str) -> Received:
        """Size and digests so far, as the result of a download from `origin`."""
        return Received(self.size, Sha256(self.hex("sha256")), BlobDigest(self.hex("blake3")), origin)


class PartFile:
    """The partial download `<destination>.part`, open. `digests` always cover exactly the bytes in the file.

    `mixed` is set if the bytes come from more than one response. A wrong digest may then come from joining them, so one
    more download from the start is worth it. Entering the context continues the file of an earlier run, but only if an
    expected digest can verify the result.
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
            self._continue()
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
        """The number of bytes in the file."""
        return self.digests.size

    @property
    def complete(self) -> bool:
        """Whether the file has its expected size and a digest to verify it, so that no download is needed."""
        return bool(self._expected.digests) and self.size == self._expected.size

    def write(self, chunk: bytes) -> None:
        """Append the chunk; raises FetchError (`disk-full`, `write-failed`)."""
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._write_error(error) from error
        self.digests.update(chunk)

    def restart(self) -> None:
        """Empty the file and the digests."""
        self._file.seek(0)
        self._file.truncate(0)
        self.digests = Digests(self._expected.digests)
        self.mixed = False

    def finish(self) -> None:
        """Move the file to the destination, replacing a file there."""
        self.path.replace(self._destination)

    def set_aside(self) -> Path:
        """Move the file to `<destination>.mismatch`, and return that path."""
        kept = self._destination.with_name(self._destination.name + ".mismatch")
        self.path.replace(kept)
        return kept

    def _continue(self) -> None:
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
            detail="Free some space and try again: forge continues the partial download." if full else "",
            reason="disk-full" if full else "write-failed",
        )


OnProgress = Callable[[int, int], None]
"""Called with the bytes so far and the total (0 if unknown). An exception that it raises ends the download."""


Candidate = str | UrlFailure
"""A URL to try, or why the search for one failed."""


@dataclass(slots=True)
class _Download:
    client: HttpClient
    destination: Path
    expected: Expected
    on_progress: OnProgress | None
    mismatch: Mismatch | None = None

    def run(self, url: str, write: Callable[[ByteSink], None] | None = None) -> Received:
        """The file from one URL, or from `write`; raises UrlFailure and FetchError."""
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
        """Write the next bytes and report progress; raises UrlFailure for more bytes than expected."""
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
    """The sink for `produce`. Like a download, it enforces the expected size and reports progress."""

    def __init__(self, job: _Download, origin: str, part: PartFile) -> None:
        self._job = job
        self._origin = origin
        self._part = part

    def write(self, chunk: bytes) -> None:
        """Append the chunk; raises UrlFailure for more bytes than expected."""
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
    """The verified file, at `destination`, from the first candidate that delivers it; raises FetchError.

    `candidates` may be a generator: `download` takes the next one only after the current one failed.
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
            # An earlier candidate delivered wrong content. It explains nothing now, so it is removed.
            if job.mismatch is not None and job.mismatch.kept is not None:
                job.mismatch.kept.unlink(missing_ok=True)
            return received
    if not failures:
        raise FetchError(f"fetch {what}: no URL to fetch it from", reason="no-url")
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
    """The verified file, at `destination`, made by `write` instead of read from a URL; raises FetchError."""
    job = _Download(client, destination, expected, on_progress)
    try:
        return job.run(origin, write)
    except UrlFailure as failure:
        raise error_of(what, [failure], job.mismatch) from failure
