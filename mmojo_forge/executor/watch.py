"""Compares a running build with its limits: when to look, and what is too much."""

from __future__ import annotations

import math
import time
from pathlib import Path

from mmojo_forge.executor import usage
from mmojo_forge.executor.request import BuildRequest, Outcome
from mmojo_forge.executor.usage import SandboxMeter

# A fork bomb makes some hundred processes in this time, and on a busy machine a later look would come far too late.
_PROCESS_LOOK = 0.05
_MEMORY_LOOK = 1.0
_SOONEST_MEMORY_LOOK = 0.05
# How fast a build may fill memory, at most: the closer to its limit, the sooner the next look.
_MEMORY_BYTES_PER_SECOND = 4 << 30
_DISK_LOOK = 2.0
# Looking at the disk takes at most one part in this many of the time.
_DISK_SHARE = 50


class Watch:
    """Knows when each limit of one build is to be looked at next.

    Time is counted from its construction; processes, memory and disk from `start_looking`, and rarely enough that a
    build of a few milliseconds never pays for a look.
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
        """How long the build has been going."""
        return time.monotonic() - self._started

    def note_output(self) -> None:
        """The build has said something."""
        self._silence_end = time.monotonic() + self._limits.silent_seconds

    def start_looking(self, meter: SandboxMeter) -> None:
        """There is a sandbox to look at from now on."""
        now = time.monotonic()
        self._meter = meter
        self._process_look = now + _PROCESS_LOOK
        self._memory_look = now + self._memory_pause(0)
        self._disk_look = now + _DISK_LOOK

    def milliseconds_to_next_look(self) -> float:
        """How long nothing needs to be looked at, as select.poll takes it."""
        nearest = min(self._wall_end, self._silence_end, self._process_look, self._memory_look, self._disk_look)
        return max(0, math.ceil((nearest - time.monotonic()) * 1000))

    def find_excess(self) -> Outcome | None:
        """The limit that the build is beyond, if one whose time has come to be looked at is."""
        now = time.monotonic()
        if now >= self._wall_end:
            return Outcome.WALL_LIMIT
        if now >= self._silence_end:
            return Outcome.SILENCE_LIMIT
        if self._meter is None:
            return None
        if now >= self._process_look:
            self._process_look = now + _PROCESS_LOOK
            if self._meter.has_more_processes_than(self._limits.processes):
                return Outcome.PROCESS_LIMIT
        if now >= self._memory_look:
            return self._look_at_memory(self._meter)
        return self._look_at_disk() if now >= self._disk_look else None

    def has_too_much_output(self) -> bool:
        """Whether the finished build has left more than it may."""
        return self._exceeds_disk(self._directories[1:])

    def _look_at_memory(self, meter: SandboxMeter) -> Outcome | None:
        seen = meter.measure()
        now = time.monotonic()
        self.peak_memory_bytes = max(self.peak_memory_bytes, seen.memory_bytes)
        self._memory_look = now + self._memory_pause(seen.memory_bytes)
        if seen.memory_bytes > self._limits.memory_bytes:
            return Outcome.MEMORY_LIMIT
        return Outcome.PROCESS_LIMIT if seen.tasks > self._limits.processes else None

    def _memory_pause(self, used: int) -> float:
        headroom = (self._limits.memory_bytes - used) / _MEMORY_BYTES_PER_SECOND
        return min(_MEMORY_LOOK, max(_SOONEST_MEMORY_LOOK, headroom))

    def _look_at_disk(self) -> Outcome | None:
        before = time.monotonic()
        exceeded = self._exceeds_disk(self._directories)
        now = time.monotonic()
        self._disk_look = now + max(_DISK_LOOK, (now - before) * _DISK_SHARE)
        return Outcome.OUTPUT_LIMIT if exceeded else None

    def _exceeds_disk(self, directories: tuple[Path, ...]) -> bool:
        files, size = self._limits.output_files, self._limits.output_bytes
        seen = usage.measure_disk(directories, most_files=files, most_bytes=size)
        return seen.files > files or seen.bytes > size
