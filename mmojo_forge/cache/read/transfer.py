"""Fetches the content of one tree: ranges of packs over several connections, with each chunk and each file verified.

    map ──▶ needed chunks ──▶ runs: parts of packs, up to 1 MiB ──▶ threads ──▶ frame ──▶ chunk ──▶ files

Memory is a few buffers per connection, whatever the size of the tree. A small file comes out of one chunk. A large file
is assembled in the partial folder, at its chunks' offsets, in the order in which they arrive. The sink gets it once its
digest matches the manifest. After a broken connection, the rest of the run is requested again.

The `Spool` keeps verified chunks in the partial folder until the tree is complete, so that a fetch can resume. Each
thread appends records to its own file: BLAKE3 (32 bytes), length (4 bytes, little endian), frame. The next process
reads what a killed one left, up to the first truncated record, and verifies every chunk again when it uses it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from mmojo_forge.cache.failure import CacheError, CacheFault, lying
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.format.chunks import CHUNK_MOST, Codec, longest_frame
from mmojo_forge.cache.format.treemap import Chunk, Group, TreeMap
from mmojo_forge.cache.transport.protocol import Body, Span, Transport, read_exactly
from mmojo_forge.model.digest import BlobDigest
from mmojo_forge.model.tree import TreeEntry
from mmojo_forge.store.protocol import Sink

_SUFFIX = ".spool"
_HEADER = 36


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    offset: int
    length: int


class Spool:
    """Verified chunks in a folder that one fetch at a time uses. Raises CacheError (`cache-io`) if it cannot write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local = threading.local()
        self._open: list[int] = []
        self._lock = threading.Lock()
        self._found: dict[str, _Place] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                self._scan(str(path))
        except OSError as error:
            raise self._failed(error) from error

    def __contains__(self, digest: object) -> bool:
        return digest in self._found

    def get(self, digest: str) -> bytes:
        """The stored frame. It may be short or empty if the file is damaged."""
        place = self._found[digest]
        with contextlib.suppress(OSError), open(place.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), place.length, place.offset)
        return b""

    def add(self, digest: str, frame: bytes) -> None:
        """Store the frame of a verified chunk."""
        try:
            fd = self._own()
            os.writev(fd, [bytes.fromhex(digest), len(frame).to_bytes(4, "little"), frame])
        except OSError as error:
            raise self._failed(error) from error

    def close(self, *, remove: bool) -> None:
        """Close the files, and delete them if `remove` is set."""
        with self._lock:
            for fd in self._open:
                os.close(fd)
            self._open.clear()
        if remove:
            with contextlib.suppress(OSError):
                for path in self._folder.glob(f"*{_SUFFIX}"):
                    path.unlink()

    def _own(self) -> int:
        fd: int | None = getattr(self._local, "fd", None)
        if fd is None:
            path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._local.fd = fd
            with self._lock:
                self._open.append(fd)
        return fd

    def _scan(self, path: str) -> None:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            at = 0
            while len(header := file.read(_HEADER)) == _HEADER:
                length = int.from_bytes(header[32:], "little")
                if not 0 < length <= longest_frame(CHUNK_MOST) or at + _HEADER + length > end:
                    return
                self._found[header[:32].hex()] = _Place(path, at + _HEADER, length)
                at += _HEADER + length
                file.seek(at)

    def _failed(self, error: OSError) -> CacheError:
        message = f"keep a partial download in {self._folder}: {error.strerror or error}"
        return CacheError(message, reason="cache-io", fault=CacheFault.FAILING)


# The longest range of one request, and the longest gap that is read and dropped: a new request costs more.
_RUN = 1 << 20
_GAP = 32 << 10
_READ = 256 << 10
_HASHED = 1 << 20
_RETRY_SECONDS = 0.5

Known = Callable[[str], bytes | None]
"""Returns the content of the chunk with this BLAKE3, or None. The transfer verifies it."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes that arrived and the bytes expected, from several threads. It may raise to end the fetch."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a fetch. `resume` keeps the chunks that arrived for another attempt; a local cache does not need it.

    A run fails after `attempts` broken connections without progress.
    """

    connections: int = 8
    attempts: int = 3
    resume: bool = True
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class _Delivery:
    """One chunk, and the groups and large files that its content belongs to."""

    chunk: Chunk
    groups: list[Group] = field(default_factory=list)
    parts: list[tuple[_Assembly, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Assembly:
    """A large file that is being assembled; `left` chunks are still to be written."""

    file: TreeEntry
    path: Path
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class Transfer:
    """One fetch of one tree. No other fetch may use the partial folder meanwhile."""

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        wanted: TreeMap,
        sink: Sink,
        partial: Path,
        options: Options,
        known: Known | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._map = wanted
        self._sink = sink
        self._partial = partial
        self._options = options
        self._known = known
        self._on_progress = on_progress
        self._arrived = 0
        self._expected = 0
        self._counting = threading.Lock()
        self._spool = Spool(partial)
        self._lacking: set[BlobDigest] = set()
        self._assemblies: list[_Assembly] = []
        self._stop = threading.Event()

    def run(self) -> None:
        """Return when the sink has every file that it lacked; raises CacheError, and what the sink raises."""
        done = False
        try:
            deliveries = self._plan()
            local = [delivery for delivery in deliveries if self._may_be_local(delivery)]
            rest = self._in_threads(self._from_local, [[delivery] for delivery in local])
            tried = {delivery.chunk.digest for delivery in local}
            missing = [delivery for delivery in deliveries if delivery.chunk.digest not in tried]
            missing += [delivery for failed in rest for delivery in failed]
            self._expected = sum(delivery.chunk.length for delivery in missing)
            self._in_threads(self._from_cache, list(_runs(missing)))
            done = True
        finally:
            self._spool.close(remove=done or not self._options.resume)
            for assembly in self._assemblies:
                with contextlib.suppress(OSError):
                    assembly.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._partial.rmdir()

    def _plan(self) -> list[_Delivery]:
        small = [*self._map.empty, *(file for group in self._map.groups for file in group.files)]
        self._lacking = self._sink.lacking([*small, *(large.file for large in self._map.files)])
        self._take_small([(file, b"") for file in self._map.empty])
        planned: dict[str, _Delivery] = {}
        for group in self._map.groups:
            if any(file.digest in self._lacking for file in group.files):
                planned.setdefault(group.chunk.digest, _Delivery(group.chunk)).groups.append(group)
        for large in self._map.files:
            if large.file.digest in self._lacking:
                path = self._partial / f"{large.file.digest}.part"
                path.unlink(missing_ok=True)
                assembly = _Assembly(large.file, path, len(large.chunks))
                self._assemblies.append(assembly)
                offset = 0
                for chunk in large.chunks:
                    planned.setdefault(chunk.digest, _Delivery(chunk)).parts.append((assembly, offset))
                    offset += chunk.size
        return list(planned.values())

    def _may_be_local(self, delivery: _Delivery) -> bool:
        return delivery.chunk.digest in self._spool or self._known is not None

    def _from_local(self, deliveries: list[_Delivery]) -> list[_Delivery]:
        """Make the deliveries from the spool or from `known`, and return those for which neither has the chunk."""
        rest = []
        for delivery in deliveries:
            self._check_stop()
            if not self._from_spool(delivery) and not self._from_known(delivery):
                rest.append(delivery)
        return rest

    def _from_spool(self, delivery: _Delivery) -> bool:
        if delivery.chunk.digest not in self._spool:
            return False
        try:
            content = self._unpack(delivery.chunk, self._spool.get(delivery.chunk.digest))
        except CacheError:
            return False
        self._deliver(delivery, content)
        return True

    def _from_known(self, delivery: _Delivery) -> bool:
        content = self._known(delivery.chunk.digest) if self._known else None
        if content is None or blake3(content).hexdigest() != delivery.chunk.digest:
            return False
        if len(content) != delivery.chunk.size:
            return False
        self._deliver(delivery, content)
        return True

    def _from_cache(self, run: list[_Delivery]) -> list[_Delivery]:
        """Deliver the whole run, and return an empty list, as `_in_threads` expects."""
        rest = list(reversed(run))
        attempts = self._options.attempts
        while rest:
            self._check_stop()
            before = len(rest)
            try:
                self._read(rest)
            except CacheError as error:
                # An attempt that made progress does not count, however often that happens.
                attempts -= len(rest) == before
                if error.fault is not CacheFault.FAILING or attempts <= 0:
                    raise
                self._options.sleep(_RETRY_SECONDS)
        return []

    def _read(self, rest: list[_Delivery]) -> None:
        """Deliver the run in `rest`, which is reversed so that a delivered chunk can be popped off its end."""
        first, last = rest[-1].chunk, rest[0].chunk
        path = layout.pack_path(first.pack)
        at = first.offset
        with self._transport.open(path, Span(at, last.offset + last.length - at)) as answer:
            body = _Buffered(answer, self._count)
            while rest:
                self._check_stop()
                chunk = rest[-1].chunk
                read_exactly(body, self._transport.place, path, chunk.offset - at)
                frame = read_exactly(body, self._transport.place, path, chunk.length)
                at = chunk.offset + chunk.length
                content = self._unpack(chunk, frame)
                if self._options.resume:
                    self._spool.add(chunk.digest, frame)
                self._deliver(rest[-1], content)
                rest.pop()

    def _count(self, arrived: int) -> None:
        if self._on_progress is not None:
            with self._counting:
                self._arrived += arrived
                so_far = self._arrived
            # Gaps, and bytes that are read again after a broken connection, are not part of the expected bytes.
            self._on_progress(min(so_far, self._expected), self._expected)

    def _unpack(self, chunk: Chunk, frame: bytes) -> bytes:
        path = layout.pack_path(chunk.pack)
        content = self._codec.unpack(frame, chunk.size, self._transport.place, path)
        if blake3(content).hexdigest() != chunk.digest:
            raise lying(self._transport.place, path, f"chunk {chunk.digest} has another digest", "chunk-mismatch")
        return content

    def _deliver(self, delivery: _Delivery, content: bytes) -> None:
        for group in delivery.groups:
            at = 0
            found = []
            for file in group.files:
                found.append((file, content[at : at + file.size]))
                at += file.size
            self._take_small(found)
        for assembly, offset in delivery.parts:
            self._write(assembly, offset, content)

    def _take_small(self, files: Iterable[tuple[TreeEntry, bytes]]) -> None:
        verified = []
        for file, content in files:
            if file.digest in self._lacking:
                if blake3(content).hexdigest() != file.digest:
                    raise self._wrong(file)
                verified.append((file, content))
        if verified:
            self._sink.take_small(verified)

    def _write(self, assembly: _Assembly, offset: int, content: bytes) -> None:
        try:
            # Do not keep the file open: a chunk can belong to any number of files, and descriptors are limited.
            fd = os.open(assembly.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(content)
                while view:
                    written = os.pwrite(fd, view, offset)
                    view, offset = view[written:], offset + written
            finally:
                os.close(fd)
            with assembly.lock:
                assembly.left -= 1
                if assembly.left:
                    return
            digest = _digest(assembly.path)
        except OSError as error:
            message = f"write {assembly.path}: {error.strerror or error}"
            raise CacheError(message, reason="cache-io", fault=CacheFault.FAILING) from error
        if digest != assembly.file.digest:
            raise self._wrong(assembly.file)
        self._sink.take_file(assembly.file, assembly.path)

    def _wrong(self, file: TreeEntry) -> CacheError:
        path = layout.map_path(self._map.tree)
        return lying(self._transport.place, path, f"{file.path or 'the file'} has another digest", "blob-mismatch")

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise CacheError("fetch: another connection failed", reason="cache-io", fault=CacheFault.FAILING)

    def _in_threads(
        self, work: Callable[[list[_Delivery]], list[_Delivery]], jobs: Sequence[list[_Delivery]]
    ) -> list[list[_Delivery]]:
        """The result of `work` for each job. The first error stops the other threads, and is raised after they end."""
        if not jobs:
            return []
        with ThreadPoolExecutor(min(self._options.connections, len(jobs)), "forge-pull") as pool:
            futures = [pool.submit(work, job) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = [error for future in done if (error := future.exception()) is not None]
                if failed:
                    raise failed[0]
                return [future.result() for future in futures]
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise


class _Buffered:
    """Reads in large pieces, because one call for each small chunk would be slow."""

    def __init__(self, body: Body, count: Callable[[int], None]) -> None:
        self._body = body
        self._count = count
        self._buffer = b""
        self._at = 0

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        if self._at == len(self._buffer) and count:
            self._buffer, self._at = self._body.read(_READ), 0
            self._count(len(self._buffer))
        part = self._buffer[self._at : self._at + count]
        self._at += len(part)
        return part


def _digest(path: Path) -> str:
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(_HASHED):
            hasher.update(part)
    return hasher.hexdigest()


def _runs(deliveries: Iterable[_Delivery]) -> Iterator[list[_Delivery]]:
    """Deliveries grouped into runs of neighbouring chunks in one pack, in order of offset."""
    run: list[_Delivery] = []
    start = end = 0
    for delivery in sorted(deliveries, key=lambda delivery: (delivery.chunk.pack, delivery.chunk.offset)):
        chunk = delivery.chunk
        new = not run or chunk.pack != run[-1].chunk.pack or chunk.offset + chunk.length - start > _RUN
        if new or not 0 <= chunk.offset - end <= _GAP:
            if run:
                yield run
            run, start = [], chunk.offset
        run.append(delivery)
        end = chunk.offset + chunk.length
    if run:
        yield run
