"""Downloads: from a list of URLs to one verified file.

1. Each URL in turn, each with retries; whatever arrived stays in `<destination>.part`, over retries, URLs and runs.
2. A beginning that is there is continued by Range if the server's answer fits, else it is started anew.
3. Every byte is hashed when it is written; more than the expected size ends the transfer at once.
4. What is right is renamed to the destination. What is wrong is first tried once more from nothing, where its
   beginning came from elsewhere; then it is set aside as `<destination>.mismatch`, and the next URL is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.fetch.digests import Expected, Received
from mmojo_forge.fetch.failure import FetchError, Kind, Mismatch, UrlFailure, error_of
from mmojo_forge.fetch.http import HttpClient, Stream
from mmojo_forge.fetch.part_file import PartFile
from mmojo_forge.fetch.retry import with_retries
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.fetch.sink import Sink
from mmojo_forge.fetch.url import redacted

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

    def run(self, url: str, write: Callable[[Sink], None] | None = None) -> Received:
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

    def _receive(self, url: str, part: PartFile, write: Callable[[Sink], None] | None) -> None:
        if write is not None or not self.expected.digests:
            part.restart()
        if write is not None:
            write(_CheckedSink(self, url, part))
            return
        with self.client.open(url, start=part.size) as stream:
            if stream.start != part.size:
                part.restart()
            elif part.size:
                part.mixed = True
            self._check_size(url, stream.total or 0)
            self._copy(url, stream, part)
            total = stream.total if stream.total is not None else self.expected.size
            if total is not None and part.size < total:
                raise UrlFailure(url, Kind.TRUNCATED, f"ended after {part.size} of {total} bytes")

    def _copy(self, url: str, stream: Stream, part: PartFile) -> None:
        speed = _Speed(self.client.settings)
        total = self.expected.size or stream.total or 0
        for chunk in stream.chunks:
            self.append(url, part, chunk, total)
            speed.check(url, len(chunk))

    def append(self, url: str, part: PartFile, chunk: bytes, total: int) -> None:
        """Take in the next bytes; raises UrlFailure where they are too many."""
        self._check_size(url, part.size + len(chunk))
        part.write(chunk)
        if self.on_progress is not None:
            self.on_progress(part.size, total)

    def _check_size(self, url: str, size: int) -> None:
        if self.expected.size is not None and size > self.expected.size:
            raise UrlFailure(url, Kind.TOO_LARGE, f"more than the pinned {self.expected.size} bytes")

    def _verify(self, url: str, part: PartFile) -> None:
        difference = part.digests.difference(self.expected)
        if difference is None:
            return
        expected, got = difference
        self.mismatch = Mismatch(expected, got, redacted(url), part.set_aside())
        raise UrlFailure(url, Kind.MISMATCH, f"expected {expected}, got {got}")


class _Speed:
    """Notices a server that sends so little that no read ever times out."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._since = time.monotonic()
        self._bytes = 0

    def check(self, url: str, size: int) -> None:
        self._bytes += size
        now = time.monotonic()
        if now - self._since < self._settings.slow_seconds:
            return
        if self._bytes < self._settings.slow_bytes:
            raise UrlFailure(url, Kind.STALLED, f"{self._bytes} bytes in {now - self._since:.0f} s")
        self._since, self._bytes = now, 0


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
    write: Callable[[Sink], None],
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
