"""The facts of this machine, for recipes with a `host` parameter. The facts that a recipe reads become its label.

| fact | value |
|---|---|
| `os`, `machine`, `libc` | `linux`, `x86_64`, `glibc 2.36` |
| `cpu.model` | the CPU's own model name |
| `cpu.microarchitecture` | archspec's name for it (`zen4`), or for the best level that fits (`x86_64_v4`) |
| `cpu.features` | archspec's names for this CPU's features, sorted, separated by spaces |
| `cpu.flags` | all CPU flags, as the kernel names them |
| `cpu.cores`, `cpu.threads` | physical cores, and threads, that this process may use |
| `gpu` | the names of the NVIDIA GPUs, sorted, separated by commas; or `none` |
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmojo_forge.recipe.api import HostFactError

SETS = ("cpu.features", "cpu.flags")
"""Facts that are sets of words. A result built for some of them also runs on a machine that has more."""


class HostFacts(Mapping[str, str]):
    """The facts of this machine by name. Each is read on first access and cached.

    A fact that this machine does not expose raises KeyError. A CPU that archspec does not know raises HostFactError
    (`unknown-cpu`). `root` is the folder that contains /proc and /sys; tests pass another one.
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
        """The kernel's fields for the first CPU; empty if /proc/cpuinfo cannot be read."""
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
        # Some virtual machines hide a feature that all CPUs of a model have. archspec then falls back to a generic
        # level, so the flags add the features that the level does not include.
        return " ".join(sorted(named | (known & set(flags))))

    def _cores(self) -> str:
        cpus = self._root / "sys/devices/system/cpu"
        siblings = {
            # All threads of a core share one sibling list. Where the kernel has no list, each thread counts as a core.
            _read(cpus / f"cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
            for cpu in os.sched_getaffinity(0)
        }
        return str(len(siblings))

    def _gpu(self) -> str:
        files = (self._root / "proc/driver/nvidia/gpus").glob("*/information")
        names = [dict(_fields(_read(file))).get("Model", "unknown NVIDIA GPU") for file in files]
        return ", ".join(sorted(names)) or "none"


def read() -> HostFacts:
    """The facts of this machine, read lazily."""
    return HostFacts()


def mismatch(label_facts: Mapping[str, str], host_facts: Mapping[str, str]) -> list[str]:
    """One line for each fact of a host-specific label that does not match the machine with `host_facts`, sorted.

    For CPU features and flags, only missing ones count; every other fact must be equal. A fact that cannot be read
    here counts as a mismatch; nothing is raised.
    """
    lines = (_mismatch(name, value, host_facts) for name, value in sorted(label_facts.items()))
    return [line for line in lines if line]


def _mismatch(name: str, built_for: str, host_facts: Mapping[str, str]) -> str:
    try:
        # A recipe that takes `host` but reads no fact has the label `host`, whose value is the operating system.
        here = host_facts["os" if name == "host" else name]
    except (KeyError, HostFactError):
        return f"{name}: built for {built_for}, not known here"
    if name in SETS:
        missing = sorted(set(built_for.split()) - set(here.split()))
        return f"{name}: missing here: {' '.join(missing)}" if missing else ""
    return "" if here == built_for else f"{name}: built for {built_for}, here it is {here}"


def _detect_cpu() -> tuple[str, frozenset[str], frozenset[str]]:
    """archspec's name for this CPU, the features of that name, and all feature names of the CPU's family.

    Raises HostFactError (`unknown-cpu`) if archspec knows only the family, or nothing.
    """
    from archspec import cpu  # type: ignore[import-untyped] # takes 0.1 s to import; only host-specific targets need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # archspec warns about unreadable files; the CPU is then unknown, see below
        found = cpu.host()
    if found.name not in cpu.TARGETS or not found.ancestors:
        raise HostFactError(
            f"read host facts: unknown CPU (archspec identifies it as {found.name!r})",
            detail="Set the recipe's option `cpu` explicitly, for example: --set cpu=x86_64_v3",
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
