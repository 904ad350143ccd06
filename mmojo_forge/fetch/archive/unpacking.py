"""Unpacks one archive into a tree: places each member, writes it, counts it, and checks the whole tree at the end.

Unpacking adds members one by one; tar archives use it as the stream arrives. `unpack_zip` first checks and plans the
whole zip, and then inflates and writes in several threads. zlib and system calls release the GIL, so thousands of small
entries are written while one thread inflates a huge one (a compiler in a wheel). Each thread has its own directory
descriptors; the plan makes all directories beforehand.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from mmojo_forge.fetch.archive import zip as zip_format
from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import (
    MIB,
    ArchiveLimits,
    ArchiveMember,
    ExtractOptions,
    ExtractReport,
    MemberKind,
    UnpackBudget,
)
from mmojo_forge.fetch.archive.placement import MAX_TARGET_BYTES, MERGED_DIRECTORIES, Placement, TreePath, split_name
from mmojo_forge.fetch.archive.writer import ArchiveTreeWriter, Content
from mmojo_forge.fetch.archive.zip import ZipEntry


class Unpacking:
    """Adds the members of one archive to a tree by the rules of ExtractOptions."""

    def __init__(self, writer: ArchiveTreeWriter, budget: UnpackBudget, options: ExtractOptions) -> None:
        self.writer = writer
        self.budget = budget
        self._options = options
        self._placement = Placement(options)
        self._prefix = split_name(options.prefix, options.limits) if options.prefix else ()
        self._files = self._symlinks = self._skipped = 0

    def place(self, member: ArchiveMember) -> TreePath | None:
        """The path of a member, before merging and without the prefix; None if the options skip it."""
        self.budget.add_member()
        path = self._placement.select(member.name)
        if path is None:
            self._skipped += 1
        elif member.kind is MemberKind.DEVICE:
            raise ArchiveError(f"{member.name}: a device, FIFO or socket", reason=Reason.DEVICE)
        elif not path and member.kind is not MemberKind.DIRECTORY:
            raise ArchiveError(f"{member.name}: the root of the archive is not a directory", reason=Reason.BAD_NAME)
        return path

    def merge(self, path: TreePath) -> TreePath:
        """The path to write for a path from `place`: merged, with the prefix."""
        return (*self._prefix, *self._placement.merge(path))

    def place_file(self, path: TreePath, size: int) -> TreePath:
        """The path to write for a file of this size at `path`. Counts the file and makes its directory."""
        path = self.merge(path)
        self.budget.add_file("/".join(path), size)
        self.writer.make_directory(path[:-1])
        self._files += 1
        return path

    def add(self, member: ArchiveMember, content: Content) -> None:
        """Write a member, unless the options skip it."""
        path = self.place(member)
        if path is None:
            return
        if member.kind is MemberKind.FILE:
            self.writer.write_file(self.place_file(path, member.size), content, executable=member.executable)
        elif member.kind is MemberKind.DIRECTORY:
            self.make_directory(path)
        elif member.kind is MemberKind.SYMLINK:
            self.add_symlink(path, member.target)
        else:
            self._add_hard_link(path, member.target)

    def make_directory(self, path: TreePath) -> None:
        """Make a directory placed at `path`, if it is missing."""
        self.writer.make_directory(self.merge(path))

    def add_symlink(self, path: TreePath, target: str) -> None:
        """Write a symlink placed at `path`, unless merging makes it point to itself."""
        checked = self._placement.symlink_target(path, target)
        if checked is not None:
            self.writer.make_symlink(self.merge(path), checked)
            self._symlinks += 1

    def finish(self, format_name: str) -> ExtractReport:
        """The report after the last member; raises ArchiveError for errors that only the whole tree shows."""
        if self._placement.selects and not self._options.may_be_empty and not self._files + self._symlinks:
            raise ArchiveError(
                f"the options select none of {self._skipped} entries",
                detail="Compare strip_components, subpath, include and exclude with the names in the archive.",
                reason=Reason.NOTHING_SELECTED,
            )
        if self._options.merge_usr:
            for name in sorted(MERGED_DIRECTORIES):
                if self.writer.is_directory(("usr", name)):
                    self.writer.make_symlink((name,), f"usr/{name}")
        self.writer.check_symlinks()
        return ExtractReport(
            format=format_name,
            files=self._files,
            symlinks=self._symlinks,
            directories=self.writer.directories,
            bytes=self.budget.bytes,
            skipped=self._skipped,
        )

    def _add_hard_link(self, path: TreePath, target: str) -> None:
        """Copy the target of a hard link. Trees have no hard links: writing to one file must not change another."""
        source = self._placement.select(target)
        if source is None:
            raise ArchiveError(
                f"{'/'.join(path)}: hard link to {target}, which is not extracted", reason=Reason.HARD_LINK
            )
        self.writer.copy_file(self.merge(path), self.merge(source))
        self._files += 1


_LARGE = 4 * MIB
_BATCH = 32
_MOST_THREADS = 4

Job = tuple[TreePath, ZipEntry]


def unpack_zip(descriptor: int, size: int, unpacking: Unpacking, limits: ArchiveLimits) -> None:
    """Unpack a zip of `size` bytes; raises ArchiveError."""
    entries = zip_format.read_entries(descriptor, size, limits)
    total = sum(entry.member.size for entry in entries)
    if total > limits.allowed_output(size):
        raise ArchiveError(f"{size} packed bytes unpack to {total}", reason=Reason.RATIO)
    jobs = _plan(descriptor, entries, unpacking)
    # The largest entries first, so that no thread starts one last, while the others are idle.
    jobs.sort(key=lambda job: -job[1].member.size if job[1].member.size > _LARGE else 0)
    _run(descriptor, jobs, unpacking.writer)


def _plan(descriptor: int, entries: list[ZipEntry], unpacking: Unpacking) -> list[Job]:
    """The files to write. Makes directories and symlinks right away."""
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
    """The target of a symlink, which is the entry's content (Info-ZIP's convention for Unix modes)."""
    name = entry.member.name
    if entry.member.size > MAX_TARGET_BYTES:
        raise ArchiveError(f"{name}: symlink target too long", reason=Reason.SYMLINK_BAD_TARGET)
    try:
        return b"".join(zip_format.content(descriptor, entry)).decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{name}: symlink target is not UTF-8", reason=Reason.SYMLINK_BAD_TARGET) from error


def _run(descriptor: int, jobs: list[Job], writer: ArchiveTreeWriter) -> None:
    """Write all files, in several threads if there are enough; raises the first error after all threads stopped."""
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
            stop.set()  # on Ctrl-C in this thread, the others must stop too


def _write(descriptor: int, batch: list[Job], writer: ArchiveTreeWriter) -> None:
    for path, entry in batch:
        writer.write_file(path, zip_format.content(descriptor, entry), executable=entry.member.executable)
