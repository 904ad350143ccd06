"""The system call filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import errno
import struct
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmojo_forge.executor import seccomp
from mmojo_forge.executor.request import ExecutorError
from mmojo_forge.executor.seccomp import ALLOW, KILL_PROCESS, MACHINES, AnyBits, OneOf, RefusedCall

REFUSED = {name: refusal for refusal in seccomp.REFUSALS for name in refusal.calls}
MASK32 = 0xFFFFFFFF
words = st.integers(0, 2**64 - 1)
machines = st.sampled_from(sorted(MACHINES))


@cache
def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def interpret(program: bytes, data: bytes) -> int:
    """What the kernel would answer; only what the filter uses of classic BPF."""
    instructions = decode(program)
    accumulator = at = 0
    while True:
        code, true, false, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x06:
                return value
            case 0x15 | 0x35 | 0x45:
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
                at += true if holds[code] else false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def ask(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    known = MACHINES[machine]
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number & MASK32, known.audit if audit is None else audit, 0, *padded)
    return interpret(seccomp.build_filter(machine), data)


def call(name: str, *arguments: int, machine: str = "x86_64") -> int:
    return ask(machine, MACHINES[machine].calls[name], *arguments)


def refused(number: int) -> int:
    return 0x50000 | number


def expected(refusal: RefusedCall, arguments: tuple[int, ...]) -> int:
    """The answer, told a second time and without jumps."""

    def matches(test: AnyBits | OneOf) -> bool:
        low = arguments[test.argument] & MASK32
        if isinstance(test, OneOf):
            return ((low & test.mask) in test.values) != test.negated
        return bool(low & test.bits) and (test.only_if is None or bool(arguments[test.only_if[0]] & test.only_if[1]))

    return refused(refusal.error) if not refusal.tests or any(map(matches, refusal.tests)) else ALLOW


@given(machine=machines, number=st.integers(0, 600), arguments=st.tuples(*[words] * 6))
def test_every_call_gets_the_answer_its_refusal_describes(
    machine: str, number: int, arguments: tuple[int, ...]
) -> None:
    names = {listed: name for name, listed in MACHINES[machine].calls.items()}
    name = names.get(number)
    wanted = ALLOW if name is None else expected(REFUSED[name], arguments)
    assert ask(machine, number, *arguments) == wanted


@given(machine=machines, data=st.data(), arguments=st.tuples(*[words] * 6))
def test_every_listed_call_gets_the_answer_its_refusal_describes(
    machine: str, data: st.DataObject, arguments: tuple[int, ...]
) -> None:
    name = data.draw(st.sampled_from(sorted(MACHINES[machine].calls)))
    assert call(name, *arguments, machine=machine) == expected(REFUSED[name], arguments)


@given(machine=machines, audit=st.integers(0, MASK32), number=st.integers(0, MASK32))
def test_a_call_from_another_abi_kills_the_process(machine: str, audit: int, number: int) -> None:
    if audit != MACHINES[machine].audit:
        assert ask(machine, number, audit=audit) == KILL_PROCESS


@given(number=st.integers(0x40000000, MASK32))
def test_x32_calls_do_not_exist(number: int) -> None:
    assert ask("x86_64", number) == refused(errno.ENOSYS)


@given(high=st.integers(0, MASK32), request=st.sampled_from([0x5412, 0x541C]), machine=machines)
def test_nothing_is_typed_into_a_terminal_whatever_the_upper_half_of_the_request(
    high: int, request: int, machine: str
) -> None:
    assert call("ioctl", 0, high << 32 | request, machine=machine) == refused(errno.EPERM)


@given(request=st.integers(0, MASK32).filter(lambda value: value not in (0x5412, 0x541C)))
def test_other_terminal_requests_pass(request: int) -> None:
    assert call("ioctl", 0, request) == ALLOW


@pytest.mark.parametrize("bit", [0o4000, 0o2000])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("chmod", (0,)),
        ("fchmod", (0,)),
        ("fchmodat", (0, 0)),
        ("fchmodat2", (0, 0)),
        ("creat", (0,)),
        ("mkdir", (0,)),
        ("mkdirat", (0, 0)),
        ("mknod", (0,)),
        ("mknodat", (0, 0)),
        ("open", (0, 0o101)),
        ("openat", (0, 0, 0o101)),
        ("openat", (0, 0, 0o20200000)),
    ],
)
def test_no_call_sets_a_set_id_bit(name: str, arguments: tuple[int, ...], bit: int) -> None:
    assert call(name, *arguments, 0o755 | bit) == refused(errno.EPERM)
    assert call(name, *arguments, 0o755) == ALLOW


def test_a_file_that_is_only_opened_may_have_garbage_for_a_mode() -> None:
    assert call("openat", 0, 0, 0, 0o7777) == ALLOW


@pytest.mark.parametrize("kind", [0o020000, 0o060000])
def test_no_device_node_is_made(kind: int) -> None:
    assert call("mknodat", 0, 0, kind | 0o644) == refused(errno.EPERM)


@pytest.mark.parametrize("kind", [0, 0o010000, 0o100000, 0o140000])
def test_files_fifos_and_sockets_are_made(kind: int) -> None:
    assert call("mknodat", 0, 0, kind | 0o644) == ALLOW


@pytest.mark.parametrize("flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
@pytest.mark.parametrize("name", ["clone", "unshare"])
def test_no_namespace_is_made(name: str, flag: int) -> None:
    assert call(name, flag | 17) == refused(errno.EPERM)


def test_processes_and_threads_are_made() -> None:
    assert call("clone", 17) == ALLOW
    assert call("clone", 0x3D0F00) == ALLOW
    assert call("clone3") == refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_the_filter_fits_one_atomic_write_to_a_pipe_and_jumps_stay_inside(machine: str) -> None:
    program = seccomp.build_filter(machine)
    assert len(program) <= 4096
    count = len(program) // 8
    for at, (code, true, false, value) in enumerate(decode(program)):
        reach = value if code == 0x05 else max(true, false)
        assert at + 1 + reach < count or code == 0x06


def test_every_refused_call_has_a_number_on_x86_64() -> None:
    assert set(REFUSED) == set(MACHINES["x86_64"].calls)


def test_call_numbers_are_not_given_twice() -> None:
    for machine in MACHINES.values():
        assert len(set(machine.calls.values())) == len(machine.calls)


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(ExecutorError) as caught:
        seccomp.build_filter("vax")
    assert caught.value.reason == "unknown-machine"
