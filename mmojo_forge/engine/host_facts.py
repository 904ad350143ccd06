"""Facts of this machine, for recipes that take a `host` parameter and are labelled with what they read.

| fact | value |
|---|---|
| `os`, `machine`, `libc` | `linux`, `x86_64`, `glibc 2.36` |
| `cpu.model` | the name the CPU gives itself |
| `cpu.microarchitecture` | archspec's name of it (`zen4`), or of the best level that fits (`x86_64_v4`) |
| `cpu.features` | archspec's names of what this CPU can do, sorted, with spaces between |
| `cpu.flags` | the same as the kernel tells it, all of it |
| `cpu.cores`, `cpu.threads` | physical cores, and threads, that this process may use |
| `gpu` | NVIDIA GPUs by name, sorted, with commas between; or `none` |
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmojo_forge.recipe.api import HostFactError

SETS = ("cpu.features", "cpu.flags")
"""Facts that are sets of words: what was built for some of them also runs where there are more."""


class HostFacts(Mapping[str, str]):
    """The facts of this machine by name. Each is found out when it is first asked for, and then stays.

    A fact that this machine does not tell is a KeyError; a CPU that archspec does not know, a HostFactError
    (`unknown-cpu`). `root` is where /proc and /sys lie.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._known: dict[str, str] = {}
        self._cpu: dict[str, str] | None = None
        self._readers: dict[str, Callable[[], str]] = {
            "cpu.cores": self._cores,
            "cpu.features": self._features,
            "cpu.flags": self._flags,
            "cpu.microarchitecture": self._microarchitecture,
            "cpu.model": lambda: self._cpuinfo()["model name"],
            "cpu.threads": lambda: str(len(os.sched_getaffinity(0))),
            "gpu": self._gpu,
            "libc": _libc,
            "machine": platform.machine,
            "os": lambda: platform.system().lower(),
        }

    def __getitem__(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = self._readers[name]()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def _cpuinfo(self) -> dict[str, str]:
        """What the kernel says of the first CPU; nothing where it cannot be read."""
        if self._cpu is None:
            text = _read(self._root / "proc/cpuinfo")
            self._cpu = dict(_fields(text.partition("\n\n")[0]))
        return self._cpu

    def _flags(self) -> str:
        fields = self._cpuinfo()
        return " ".join(sorted((fields.get("flags") or fields["Features"]).split()))

    def _microarchitecture(self) -> str:
        return _detect_cpu()[0]

    def _features(self) -> str:
        _, named, known = _detect_cpu()
        try:
            flags = self._flags().split()
        except KeyError:
            flags = []
        # Some virtual machines hide a feature that all CPUs of a kind have. Then archspec falls back to a level, but
        # everything else the CPU can do is still there.
        return " ".join(sorted(named | (known & set(flags))))

    def _cores(self) -> str:
        cpus = self._root / "sys/devices/system/cpu"
        siblings = {
            # The threads of one core all name the same list of threads. Without one, each counts as a core.
            _read(cpus / f"cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
            for cpu in os.sched_getaffinity(0)
        }
        return str(len(siblings))

    def _gpu(self) -> str:
        files = (self._root / "proc/driver/nvidia/gpus").glob("*/information")
        names = [dict(_fields(_read(file))).get("Model", "unknown NVIDIA GPU") for file in files]
        return ", ".join(sorted(names)) or "none"


def read() -> HostFacts:
    """The facts of this machine; nothing is looked at before it is asked for."""
    return HostFacts()


def mismatch(label_facts: Mapping[str, str], host_facts: Mapping[str, str]) -> list[str]:
    """What of a host-specific label does not hold on the machine with these facts, a line for each fact, sorted.

    Of CPU features only missing ones count; every other fact must be equal. Nothing is raised: a fact that cannot
    be found out here does not hold.
    """
    lines = (_mismatch(name, value, host_facts) for name, value in sorted(label_facts.items()))
    return [line for line in lines if line]


def _mismatch(name: str, built_for: str, host_facts: Mapping[str, str]) -> str:
    try:
        # A recipe that took the host and read no fact is labelled with the system alone.
        here = host_facts["os" if name == "host" else name]
    except (KeyError, HostFactError):
        return f"{name}: built for {built_for}, not known here"
    if name in SETS:
        missing = sorted(set(built_for.split()) - set(here.split()))
        return f"{name}: missing here: {' '.join(missing)}" if missing else ""
    return "" if here == built_for else f"{name}: built for {built_for}, here it is {here}"


def _detect_cpu() -> tuple[str, frozenset[str], frozenset[str]]:
    """Archspec's name for this CPU, the features that go with the name, and the names of all features of its family.

    Raises HostFactError (`unknown-cpu`) where archspec knows no more than the family, or not even that.
    """
    from archspec import cpu  # type: ignore[import-untyped] # a tenth of a second that only host-specific targets need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it cannot read, which then is an unknown CPU
        found = cpu.host()
    if found.name not in cpu.TARGETS or not found.ancestors:
        raise HostFactError(
            f"read host facts: this CPU is not known (archspec takes it for {found.name!r})",
            detail="Set the recipe's option `cpu` explicitly, for instance --set cpu=x86_64_v3.",
            reason="unknown-cpu",
        )
    family = [target for target in cpu.TARGETS.values() if target.family == found.family]
    return found.name, frozenset(found.features), frozenset().union(*(target.features for target in family))


def _libc() -> str:
    libc, version = platform.libc_ver()
    return f"{libc or 'unknown'} {version}".strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()
