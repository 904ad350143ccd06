"""Measures a running build, and compares it with its limits.

`SandboxMeter` measures processes and memory from outside the sandbox, `measure_disk` measures files, and `Watch`
decides when to measure.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mmojo_forge.executor.request import BuildOutcome, BuildRequest

# Anonymous and shared memory, swapped or not. File pages do not count, because the kernel can drop them.
_MEMORY = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s*(\d+) kB", re.MULTILINE)
_THREADS = re.compile(rb"^Threads:\s*(\d+)", re.MULTILINE)
_TMPFS = ("tmp", "dev/shm")


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """The memory and tasks (processes and their threads) of a sandbox at one moment.

    Memory that several processes map counts once for each of them.
    """

    memory_bytes: int = 0
    tasks: int = 0


class SandboxMeter:
    """Measures a sandbox through the sandbox's own /proc, so that the cost does not depend on the machine's processes.

    A sandbox that is not set up yet, or is gone, counts as empty.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stack = ExitStack()
        self._proc: int | None = None
        self._tmpfs: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def has_more_processes_than(self, most: int) -> bool:
        """Whether there are more than `most` processes. This stays cheap during a fork bomb."""
        try:
            proc = self._open_proc()
            if proc is None:
                return False
            with os.scandir(proc) as entries:
                processes = (entry for entry in entries if entry.name[0].isdigit())
                return next(itertools.islice(processes, most, None), None) is not None
        except OSError:
            return False

    def measure(self) -> ResourceUsage:
        """The memory and tasks. This reads one file for each process."""
        memory = tasks = 0
        for name in self._list_processes():
            try:
                status = self._read_status(name)
            except OSError:
                continue
            memory += sum(int(size) for size in _MEMORY.findall(status)) << 10
            tasks += sum(int(count) for count in _THREADS.findall(status))
        return ResourceUsage(memory + sum(_used_bytes(descriptor) for descriptor in self._tmpfs), tasks)

    def _list_processes(self) -> list[str]:
        try:
            proc = self._open_proc()
            return [] if proc is None else [name for name in os.listdir(proc) if name[0].isdigit()]
        except OSError:
            return []

    def _open_proc(self) -> int | None:
        """A descriptor of the sandbox's /proc, or None before it is mounted. The descriptor stays open."""
        if self._proc is not None:
            return self._proc
        with ExitStack() as stack:
            root = _open(stack, f"/proc/{self._pid}/root", None)
            proc = _open(stack, "proc", root, os.O_RDONLY)
            # Until bwrap has changed its root, this path leads to the machine's own /proc.
            if os.fstat(proc).st_dev == os.stat("/proc").st_dev:
                return None
            self._tmpfs = [_open(stack, name, root) for name in _TMPFS]
            self._stack.push(stack.pop_all())
        self._proc = proc
        return proc

    def _read_status(self, name: str) -> bytes:
        descriptor = os.open(f"{name}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            return os.read(descriptor, 8192)
        finally:
            os.close(descriptor)


def _open(stack: ExitStack, name: str, within: int | None, access: int = os.O_PATH) -> int:
    descriptor = os.open(name, access | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    stack.callback(os.close, descriptor)
    return descriptor


def _used_bytes(descriptor: int) -> int:
    state = os.fstatvfs(descriptor)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """The number and total size of files below some directories. The size of a hard-linked file counts once."""

    files: int = 0
    bytes: int = 0


def measure_disk(directories: tuple[Path, ...], *, most_files: int, most_bytes: int) -> DiskUsage:
    """The disk usage below the directories; counting stops beyond either bound.

    This catches builds that run away, not builds that hide files: it skips unreadable files, and files too deep for a
    path. A sparse file counts with its full length, because hashing reads all of it.
    """
    files = size = 0
    linked: set[tuple[int, int]] = set()
    waiting = [os.fspath(directory) for directory in directories]
    while waiting and files <= most_files and size <= most_bytes:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    state = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                files += 1
                if stat.S_ISDIR(state.st_mode):
                    waiting.append(entry.path)
                elif state.st_nlink == 1 or (state.st_dev, state.st_ino) not in linked:
                    size += max(state.st_size, state.st_blocks * 512)
                    if state.st_nlink > 1:
                        linked.add((state.st_dev, state.st_ino))
                if files > most_files:
                    break
    return DiskUsage(files, size)


# Seconds between checks. A fork bomb makes some hundred processes in the first of these; on a busy machine, a later
# check would come far too late.
_PROCESS_LOOK = 0.05
_MEMORY_LOOK = 1.0
_SOONEST_MEMORY_LOOK = 0.05
# The highest assumed rate at which a build fills memory. The closer a build is to its limit, the sooner the next check.
_MEMORY_BYTES_PER_SECOND = 4 << 30
_DISK_LOOK = 2.0
# Checks of the disk take at most 1/50 of the time.
_DISK_SHARE = 50


class Watch:
    """Schedules and makes the checks of one build's limits.

    Time counts from construction. Checks of processes, memory and disk begin some time after `start_looking`, so that a
    build of a few milliseconds costs nothing.
    """

    def __init__(self, request: BuildRequest) -> None:
        self._limits = request.limits
        self._directories = (request.work, request.out)
        self._started = time.monotonic()
        self._wall_end = self._started + self._limits.wall_seconds
        self._silence_end = self._started + self._limits.silent_seconds
        self._meter: SandboxMeter | None = None
        self._process_look = self._memory_look = self._disk_look = math.inf
        self.peak_memory_bytes = 0

    @property
    def seconds(self) -> float:
        """The wall time of the build so far."""
        return time.monotonic() - self._started

    def note_output(self) -> None:
        """Restart the silence limit, because the build printed something."""
        self._silence_end = time.monotonic() + self._limits.silent_seconds

    def start_looking(self, meter: SandboxMeter) -> None:
        """Start to check processes, memory and disk with this meter."""
        now = time.monotonic()
        self._meter = meter
        self._process_look = now + _PROCESS_LOOK
        self._memory_look = now + self._memory_pause(0)
        self._disk_look = now + _DISK_LOOK

    def milliseconds_to_next_look(self) -> float:
        """Milliseconds until the next check is due, for select.poll."""
        nearest = min(self._wall_end, self._silence_end, self._process_look, self._memory_look, self._disk_look)
        return max(0, math.ceil((nearest - time.monotonic()) * 1000))

    def find_excess(self) -> BuildOutcome | None:
        """Make the checks that are due, and return the outcome for the first exceeded limit, if any."""
        now = time.monotonic()
        if now >= self._wall_end:
            return BuildOutcome.WALL_LIMIT
        if now >= self._silence_end:
            return BuildOutcome.SILENCE_LIMIT
        if self._meter is None:
            return None
        if now >= self._process_look:
            self._process_look = now + _PROCESS_LOOK
            if self._meter.has_more_processes_than(self._limits.processes):
                return BuildOutcome.PROCESS_LIMIT
        if now >= self._memory_look:
            return self._look_at_memory(self._meter)
        return self._look_at_disk() if now >= self._disk_look else None

    def has_too_much_output(self) -> bool:
        """Whether the finished build's output exceeds its limits."""
        return self._exceeds_disk(self._directories[1:])

    def _look_at_memory(self, meter: SandboxMeter) -> BuildOutcome | None:
        seen = meter.measure()
        now = time.monotonic()
        self.peak_memory_bytes = max(self.peak_memory_bytes, seen.memory_bytes)
        self._memory_look = now + self._memory_pause(seen.memory_bytes)
        if seen.memory_bytes > self._limits.memory_bytes:
            return BuildOutcome.MEMORY_LIMIT
        return BuildOutcome.PROCESS_LIMIT if seen.tasks > self._limits.processes else None

    def _memory_pause(self, used: int) -> float:
        headroom = (self._limits.memory_bytes - used) / _MEMORY_BYTES_PER_SECOND
        return min(_MEMORY_LOOK, max(_SOONEST_MEMORY_LOOK, headroom))

    def _look_at_disk(self) -> BuildOutcome | None:
        before = time.monotonic()
        exceeded = self._exceeds_disk(self._directories)
        now = time.monotonic()
        self._disk_look = now + max(_DISK_LOOK, (now - before) * _DISK_SHARE)
        return BuildOutcome.OUTPUT_LIMIT if exceeded else None

    def _exceeds_disk(self, directories: tuple[Path, ...]) -> bool:
        files, size = self._limits.output_files, self._limits.output_bytes
        seen = measure_disk(directories, most_files=files, most_bytes=size)
        return seen.files > files or seen.bytes > size
