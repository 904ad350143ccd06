"""The variations of `forge check`: for each aspect, the usual value and the one in the rebuild."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.executor.host_environment import HostEnvironment
from mmojo_forge.executor.personality import ADDR_COMPAT_LAYOUT, ADDR_NO_RANDOMIZE, STICKY_TIMEOUTS
from mmojo_forge.executor.request import Mount
from mmojo_forge.files import write_atomically
from mmojo_forge.model.derivation import INHERENT, Aspect, Derivation

OTHER_UID = 4321
OTHER_HOSTNAME = "elsewhere"
CLOCK_SHIFT = "+400d"
_CLOCK_LIBRARY = "lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
# No input can have this name, so nothing collides with it.
_CLOCK_PLACE = "/forge/.clock/libfaketime.so.1"
# libfaketime leaves two things alone. The monotonic clock, because programs that wait by it would wait for ever. The
# times of files, because it sees only some of the calls that read them, and programs must agree on which file is newer.
_CLOCK_VARIABLES = MappingProxyType({"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"})
# Calls that libfaketime must not intercept, although it has no option for that:
# - Calls that set file times. It would either shift explicit times (a copy would be older than its original) or use
#   its own clock for `now` (make would find files in the future).
# - Calls that wait until an absolute time. It treats times of the monotonic clock, which is not shifted, as shifted,
#   and Python's time.sleep would fail.
_CLOCK_MAY_NOT = (
    b"utime",
    b"utimes",
    b"utimensat",
    b"futimens",
    b"clock_nanosleep",
    b"timer_settime",
    b"timerfd_settime",
)
_CPU_MODEL = "forge check: no such CPU"


@dataclass(frozen=True, slots=True)
class Variation:
    """An aspect, with its usual and its varied value. `refused` is the reason why this machine cannot vary it."""

    aspect: Aspect
    usual: str
    other: str
    refused: str = ""


@dataclass(frozen=True, slots=True)
class VariationContext:
    """Where and how a rebuild runs.

    `clock` is the store object that contains libfaketime; None if the workspace has no such target. `files` is a folder
    for files that are mounted over those of the sandbox. `environment` is that of this process.
    """

    usual_store: Path
    other_store: Path
    jobs: int
    cpus: tuple[int, ...]
    clock: Path | None
    files: Path
    environment: Mapping[str, str]

    def variations(self) -> Iterator[Variation]:
        """A variation for each aspect, in the order of the report. `check.refused` probes what this machine allows."""
        return (_unless_the_same(variation) for variation in self._variations())

    def _variations(self) -> Iterator[Variation]:
        here, there = _file_system(self.usual_store), _file_system(self.other_store)
        uid, name = os.getuid(), os.uname().nodename
        alone = "builds have only one job here anyway" if self.jobs == 1 else ""
        yield Variation(Aspect.PARALLELISM, f"up to {self.jobs} jobs", "1 job", alone)
        alone = "there is only one CPU here" if len(self.cpus) == 1 else ""
        yield Variation(Aspect.AFFINITY, f"{len(self.cpus)} CPUs", "one CPU", alone)
        yield Variation(Aspect.TIME, "when it was built", "now")
        yield Variation(
            Aspect.CLOCK,
            "the machine's",
            f"{CLOCK_SHIFT} for dynamically linked programs",
            self._why_no_clock(),
        )
        yield Variation(Aspect.ORDER, "as the store makes files", "shuffled")
        yield Variation(Aspect.BUILD_PATH, f"{self.usual_store}/tmp", f"{self.other_store}/tmp")
        yield Variation(Aspect.STORE_PATH, str(self.usual_store), str(self.other_store))
        same = "" if here != there else "no other file system has enough space; choose one with --scratch"
        yield Variation(Aspect.FILE_SYSTEM, here, there, same)
        yield Variation(Aspect.UMASK, "022", "077")
        yield Variation(Aspect.ENVIRONMENT, f"{len(self.environment)} variables", "others")
        yield Variation(
            Aspect.LOCALE, self.environment.get("LC_ALL") or self.environment.get("LANG") or "unset", "tr_TR.UTF-8"
        )
        yield Variation(Aspect.TIME_ZONE, self.environment.get("TZ") or "the machine's", "Pacific/Kiritimati")
        yield Variation(Aspect.UID, str(uid), str(OTHER_UID))
        yield Variation(Aspect.HOSTNAME, name, OTHER_HOSTNAME)
        yield Variation(Aspect.PERSONALITY, "usual", "legacy memory layout, sticky timeouts")
        yield Variation(Aspect.ASLR, "off", "on")
        yield Variation(Aspect.CPU_MODEL, _cpu_model(), _CPU_MODEL)

    def host_environment(self, active: Iterable[Aspect], cpu: int) -> HostEnvironment:
        """The host environment of a rebuild that varies these aspects. `cpu` is its only CPU if AFFINITY is varied."""
        active = frozenset(active)
        return HostEnvironment(
            environment=dict(_environment(active)),
            umask=0o077 if Aspect.UMASK in active else 0o022,
            folder="/usr" if Aspect.ENVIRONMENT in active else "/",
            cpus=(cpu,) if Aspect.AFFINITY in active else (),
            personality=_personality(active),
            uid=OTHER_UID if Aspect.UID in active else None,
            hostname=OTHER_HOSTNAME if Aspect.HOSTNAME in active else None,
            mounts=tuple(self._mounts(active)),
            variables=_CLOCK_VARIABLES if Aspect.CLOCK in active and self.clock else {},
        )

    def _why_no_clock(self) -> str:
        if self.clock is None:
            return "this workspace has no target `faketime`"
        return "" if (self.clock / _CLOCK_LIBRARY).is_file() else f"the target `faketime` has no {_CLOCK_LIBRARY}"

    def _mounts(self, active: frozenset[Aspect]) -> Iterator[Mount]:
        if Aspect.CPU_MODEL in active:
            yield Mount(self._file("cpuinfo", _cpuinfo().encode()), "/proc/cpuinfo")
        if Aspect.CLOCK in active and self.clock:
            # Uses files instead of LD_PRELOAD and FAKETIME, because builds may read their environment. Only the options
            # that have no file are variables: _CLOCK_VARIABLES.
            library = _without_its_own((self.clock / _CLOCK_LIBRARY).read_bytes())
            yield Mount(self._file("libfaketime.so.1", library), _CLOCK_PLACE)
            yield Mount(self._file("ld.so.preload", f"{_CLOCK_PLACE}\n".encode()), "/etc/ld.so.preload")
            yield Mount(self._file("faketimerc", f"{CLOCK_SHIFT}\n".encode()), "/etc/faketimerc")

    def _file(self, name: str, content: bytes) -> Path:
        path = self.files / name
        if not path.exists():
            # Atomic, because other builds may start at the same time and must not see a partial file.
            write_atomically(path, content, mode=0o444)
        return path


def varied_in(node: Derivation, active: frozenset[Aspect]) -> frozenset[Aspect]:
    """The active aspects that apply to this node.

    Builtins see no host environment, and a build that is not parallel has one job anyway.
    """
    if node.is_builtin:
        return active & INHERENT
    return active if node.parallel else active - {Aspect.PARALLELISM}


def _unless_the_same(variation: Variation) -> Variation:
    if variation.refused or variation.usual != variation.other:
        return variation
    return replace(variation, refused="this machine already has that value")


def _without_its_own(library: bytes) -> bytes:
    """The library with the symbols in _CLOCK_MAY_NOT renamed, so that programs use the C library's functions.

    The new names have the same length, so the file's layout stays as it is.
    """
    for name in _CLOCK_MAY_NOT:
        library = library.replace(b"\0%s\0" % name, b"\0%s\0" % (b"-" * len(name)))
    return library


def _environment(active: frozenset[Aspect]) -> Iterator[tuple[str, str]]:
    if Aspect.ENVIRONMENT in active:
        yield from (("HOME", "/nowhere"), ("USER", "somebody"), ("TERM", "vt52"), ("MAKEFLAGS", "-j7"))
        yield from (("CFLAGS", "-O9"), ("LD_LIBRARY_PATH", "/nowhere"), ("PYTHONHASHSEED", "7"))
    if Aspect.LOCALE in active:
        yield from (("LANG", "tr_TR.UTF-8"), ("LC_ALL", "tr_TR.UTF-8"), ("LANGUAGE", "tr"))
    if Aspect.TIME_ZONE in active:
        yield "TZ", "Pacific/Kiritimati"


def _personality(active: frozenset[Aspect]) -> int:
    flags = ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS if Aspect.PERSONALITY in active else 0
    return flags | (0 if Aspect.ASLR in active else ADDR_NO_RANDOMIZE)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "CPU part"}:
            return value.strip()
    return "unknown"


def _cpuinfo() -> str:
    return f"processor\t: 0\nvendor_id\t: Forge\nmodel name\t: {_CPU_MODEL}\ncpu cores\t: 1\nflags\t\t: fpu\n\n"


def _file_system(path: Path) -> str:
    """The kind and device number of the file system that `path` lies on."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        point, found = line.split()[1:3]
        if (str(path) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, found
    return f"{kind} on device {path.stat().st_dev:#x}"
