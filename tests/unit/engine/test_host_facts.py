"""Facts of this machine: found out late, in archspec's words, and compared with those of a label."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from archspec import cpu  # type: ignore[import-untyped]

from mmojo_forge.engine import host_facts
from mmojo_forge.engine.host_facts import HostFacts, mismatch
from mmojo_forge.recipe.api import Host, HostFactError

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = {
    *("cpu.cores", "cpu.features", "cpu.flags", "cpu.microarchitecture", "cpu.model", "cpu.threads"),
    *("gpu", "libc", "machine", "os"),
}
CPUINFO = """processor\t: 0
model name\t: Test CPU @ 3 GHz
flags\t\t: sse2 avx2 avx512_vnni hypervisor pni

processor\t: 1
model name\t: Another CPU
flags\t\t: sse2
"""


def machine(root: Path, cpuinfo: str = CPUINFO) -> HostFacts:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return HostFacts(root)


def archspec_says(monkeypatch: pytest.MonkeyPatch, target: cpu.Microarchitecture) -> None:
    monkeypatch.setattr(cpu, "host", lambda: target)


def test_the_first_processor_speaks_for_all(tmp_path: Path) -> None:
    facts = machine(tmp_path)
    assert facts["cpu.model"] == "Test CPU @ 3 GHz"
    assert facts["cpu.flags"] == "avx2 avx512_vnni hypervisor pni sse2"


def test_features_are_those_of_the_name_and_what_else_archspec_has_a_name_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archspec_says(monkeypatch, cpu.TARGETS["x86_64_v3"])
    facts = machine(tmp_path)
    assert facts["cpu.microarchitecture"] == "x86_64_v3"
    features = facts["cpu.features"].split()
    assert features == sorted(features)
    assert set(features) == cpu.TARGETS["x86_64_v3"].features | {"avx512_vnni"}


def test_a_cpu_without_flags_has_the_features_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archspec_says(monkeypatch, cpu.TARGETS["zen4"])
    facts = machine(tmp_path, "processor\t: 0\n")
    assert set(facts["cpu.features"].split()) == cpu.TARGETS["zen4"].features


@pytest.mark.parametrize(
    "target", [cpu.generic_microarchitecture("quantum64"), cpu.TARGETS["x86_64"], cpu.TARGETS["aarch64"]], ids=str
)
@pytest.mark.parametrize("fact", ["cpu.microarchitecture", "cpu.features"])
def test_a_cpu_of_which_only_the_family_is_known_is_no_guess(
    fact: str, target: cpu.Microarchitecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archspec_says(monkeypatch, target)
    host = Host(machine(tmp_path))
    with pytest.raises(HostFactError) as raised:
        host.fact(fact)
    assert raised.value.reason == "unknown-cpu"
    assert raised.value.detail
    assert host.fact("cpu.model") == "Test CPU @ 3 GHz"
    assert host.label().facts == (("cpu.model", "Test CPU @ 3 GHz"),)


def test_cores_are_counted_once_for_all_their_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        file = tmp_path / f"sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(siblings + "\n")
    for usable, cores in (({0, 1, 2, 3}, "2"), ({0, 2}, "1"), ({1, 2}, "2"), ({4, 5, 6}, "3")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, usable=usable: usable)
        facts = machine(tmp_path)
        assert (facts["cpu.cores"], facts["cpu.threads"]) == (cores, str(len(usable)))


def test_gpus_are_named_as_their_driver_names_them(tmp_path: Path) -> None:
    assert HostFacts(tmp_path)["gpu"] == "none"
    for place, model in (("0000:01:00.0", "NVIDIA T4"), ("0000:02:00.0", "NVIDIA A100-PCIE-40GB")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / place
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 34\nGPU UUID: \t GPU-0\n")
    assert HostFacts(tmp_path)["gpu"] == "NVIDIA A100-PCIE-40GB, NVIDIA T4"


def test_a_fact_that_is_not_told_here_is_no_fact(tmp_path: Path) -> None:
    host = Host(machine(tmp_path, "processor\t: 0\nBogoMIPS\t: 50.00\n"))
    for name in ("cpu.model", "cpu.flags", "weather"):
        with pytest.raises(HostFactError) as raised:
            host.fact(name)
        assert raised.value.reason == "no-such-fact"
    assert host.used == {}


def test_the_rest_is_what_python_says_of_this_machine() -> None:
    facts = host_facts.read()
    assert (facts["os"], facts["machine"]) == ("linux", os.uname().machine)
    assert facts["libc"] == (" ".join(platform.libc_ver()).strip() or "unknown")
    assert set(facts) == NAMES and all(facts[name] for name in ("cpu.cores", "cpu.threads", "gpu"))


def test_archspec_is_imported_for_the_cpu_only() -> None:
    script = """
import sys
from mmojo_forge.engine import host_facts
facts = host_facts.read()
facts["cpu.cores"], facts["gpu"], facts["os"], "cpu.features" in list(facts)
assert "archspec" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)


HERE = {"os": "linux", "cpu.microarchitecture": "zen3", "cpu.features": "avx avx2 fma", "cpu.flags": "avx fpu"}


def test_a_label_that_holds_is_no_mismatch() -> None:
    assert mismatch({}, HERE) == []
    assert mismatch(HERE, HERE) == []
    assert mismatch({"host": "linux"}, HERE) == []
    assert mismatch({"cpu.features": "avx fma", "cpu.flags": "avx"}, HERE) == []


def test_what_does_not_hold_is_told_fact_by_fact() -> None:
    label = {"os": "plan9", "cpu.microarchitecture": "zen4", "cpu.features": "amx_tile avx avx512f", "gpu": "none"}
    lines = mismatch(label, HERE)
    assert [line.partition(":")[0] for line in lines] == ["cpu.features", "cpu.microarchitecture", "gpu", "os"]
    assert lines[0].endswith("amx_tile avx512f")


def test_a_cpu_that_is_not_known_here_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archspec_says(monkeypatch, cpu.TARGETS["x86_64"])
    assert len(mismatch({"cpu.features": "avx"}, machine(tmp_path))) == 1
