"""Unpacks a zip: the whole plan is checked first, then several threads inflate and write.

zlib and the system calls release the GIL; with a thread per core the time of one huge entry (a compiler in a wheel)
hides that of thousands of small ones. Each thread has its own open directories, all made beforehand.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from mmojo_forge.fetch.archive import zip as zip_format
from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.member import MemberKind
from mmojo_forge.fetch.archive.options import MIB, ArchiveLimits
from mmojo_forge.fetch.archive.placement import MAX_TARGET_BYTES, TreePath
from mmojo_forge.fetch.archive.unpacking import Unpacking
from mmojo_forge.fetch.archive.writer import TreeWriter
from mmojo_forge.fetch.archive.zip import ZipEntry

_LARGE = 4 * MIB
_BATCH = 32
_MOST_THREADS = 4

Job = tuple[TreePath, ZipEntry]


def unpack(descriptor: int, size: int, unpacking: Unpacking, limits: ArchiveLimits) -> None:
    """Unpack a zip that is `size` bytes long."""
    entries = zip_format.read_entries(descriptor, size, limits)
    total = sum(entry.member.size for entry in entries)
    if total > limits.allowed_output(size):
        raise ArchiveError(f"{size} packed bytes unpack to {total}", reason=Reason.RATIO)
    jobs = _plan(descriptor, entries, unpacking)
    # The largest first, so that no thread is left with one of them at the end.
    jobs.sort(key=lambda job: -job[1].member.size if job[1].member.size > _LARGE else 0)
    _run(descriptor, jobs, unpacking.writer)


def _plan(descriptor: int, entries: list[ZipEntry], unpacking: Unpacking) -> list[Job]:
    """The files to write; directories and symlinks are made here."""
    jobs, seen = list[Job](), dict[TreePath, MemberKind]()
    for entry in entries:
        member = entry.member
        path = unpacking.place(member)
        if path is None:
            continue
        place = unpacking.merge(path)
        if place in seen and {seen[place], member.kind} != {MemberKind.DIRECTORY}:
            raise ArchiveError(f"{member.name}: twice in one zip", reason=Reason.DUPLICATE)
        seen[place] = member.kind
        if member.kind is MemberKind.FILE:
            jobs.append((unpacking.place_file(path, member.size), entry))
        elif member.kind is MemberKind.SYMLINK:
            unpacking.add_symlink(path, _target(descriptor, entry))
        else:
            unpacking.make_directory(path)
    return jobs


def _target(descriptor: int, entry: ZipEntry) -> str:
    """Where a symlink leads: its content, see the Info-ZIP notes on Unix modes."""
    name = entry.member.name
    if entry.member.size > MAX_TARGET_BYTES:
        raise ArchiveError(f"{name}: symlink target too long", reason=Reason.SYMLINK_BAD_TARGET)
    try:
        return b"".join(zip_format.content(descriptor, entry)).decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{name}: symlink target is not UTF-8", reason=Reason.SYMLINK_BAD_TARGET) from error


def _run(descriptor: int, jobs: list[Job], writer: TreeWriter) -> None:
    """Write all files, in as many threads as pay; raises the first error, once all threads have stopped."""
    batches = (jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH))
    taking, stop = threading.Lock(), threading.Event()

    def work() -> None:
        with writer.sibling() as own:
            while not stop.is_set():
                with taking:
                    batch = next(batches, None)
                if batch is None:
                    return
                try:
                    _write(descriptor, batch, own)
                except BaseException:
                    stop.set()
                    raise

    threads = max(1, min(_MOST_THREADS, os.cpu_count() or 1, len(jobs) // _BATCH))
    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work) for _ in range(threads)]
        try:
            for future in running:
                future.result()
        finally:
            stop.set()  # an interrupt of this thread stops the others too


def _write(descriptor: int, batch: list[Job], writer: TreeWriter) -> None:
    for path, entry in batch:
        writer.write_file(path, zip_format.content(descriptor, entry), executable=entry.member.executable)
