"""The sandbox's system call filter as classic BPF: the refused calls, and the error that each one returns.

The filter is a deny list, because namespaces, dropped capabilities and `no_new_privs` are in force already. It closes
the gaps that those leave: keyrings and vsock belong to no namespace, and a program can inject input into a terminal.
It also adds a second barrier where one kernel bug could break the first: user namespaces, mounts, modules.

The program finds a call in a balanced tree, because speed matters: it runs before every system call whose answer
depends on an argument. For the other calls, the kernel caches the answer.

    load arch ── other ABI ──▶ KILL
       │
    load nr ── x32 bit ──▶ ENOSYS
       │
    binary search ── not listed ──▶ ALLOW
       │
    argument tests ── one matches ──▶ errno ── none ──▶ ALLOW

Each error makes programs behave as they do on other systems. ENOSYS is for calls with an older fallback, or features
that some kernels lack. EPERM is for features that an ordinary user may not use. EOPNOTSUPP is for extended attributes,
which cp, tar and rsync then omit silently.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from mmojo_forge.executor.request import ExecutorError

_LD_W_ABS: Final = 0x20
_JMP_JEQ: Final = 0x15
_JMP_JGE: Final = 0x35
_JMP_JSET: Final = 0x45
_JMP_JA: Final = 0x05
_ALU_AND: Final = 0x54
_RET: Final = 0x06

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

_OFFSET_NR: Final = 0
_OFFSET_ARCH: Final = 4
_OFFSET_ARGS: Final = 16

# The bit that marks x32 calls. A call skipped by a tracer has the number -1, which has this bit too.
_X32_BIT: Final = 0x40000000

_SET_ID: Final = 0o6000
_FILE_TYPE: Final = 0o170000
_CREATING: Final = 0o100 | 0o20000000  # O_CREAT | __O_TMPFILE: without them the kernel ignores the mode.
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME's bit belongs to clone's exit signal.
_NEW_NAMESPACES: Final = 0x7E020000
_CLONE_NEWTIME: Final = 0x80
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_SOCKET_FAMILIES: Final = (1, 2, 10, 16)  # unix, inet, inet6, netlink


@dataclass(frozen=True, slots=True)
class AnyBits:
    """Matches if one of `bits` is set in the argument, and one of `only_if[1]` in argument `only_if[0]`.

    The test reads only the low 32 bits, as the kernel does for these arguments. A program could bypass a 64-bit
    comparison with a high bit that the kernel ignores (CVE-2019-10063).
    """

    argument: int
    bits: int
    only_if: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Matches if the masked low 32 bits of the argument are one of `values`, or if `negated`, none of them."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    negated: bool = False


Test = AnyBits | OneOf


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """Calls that fail with `error`: always, or if one of `tests` matches."""

    calls: tuple[str, ...]
    error: int
    tests: tuple[Test, ...] = ()


def _mode_in(argument: int, only_if: tuple[int, int] | None = None) -> tuple[Test, ...]:
    return (AnyBits(argument, _SET_ID, only_if),)


def _node_mode_in(argument: int) -> tuple[Test, ...]:
    return (*_mode_in(argument), OneOf(argument, (0o020000, 0o060000), _FILE_TYPE))


REFUSALS: Final = (
    # Keyrings belong to the user, not to a namespace. ENOSYS is the answer of kernels without CONFIG_KEYS.
    RefusedCall(("add_key", "request_key", "keyctl"), errno.ENOSYS),
    # Reading and controlling other processes. No build needs it, and it is a way to attack a supervisor.
    RefusedCall(("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"), errno.EPERM),
    # Injecting input into a terminal, or pasting into a console (CVE-2017-5226).
    RefusedCall(("ioctl",), errno.EPERM, (OneOf(1, (_TIOCSTI, _TIOCLINUX)),)),
    # A setuid file in an output would also be setuid for anyone who unpacks it. A file system that refuses set-id bits
    # answers EPERM too.
    RefusedCall(("chmod", "fchmod", "creat", "mkdir"), errno.EPERM, _mode_in(1)),
    RefusedCall(("fchmodat", "fchmodat2", "mkdirat"), errno.EPERM, _mode_in(2)),
    RefusedCall(("open",), errno.EPERM, _mode_in(2, (1, _CREATING))),
    RefusedCall(("openat",), errno.EPERM, _mode_in(3, (2, _CREATING))),
    RefusedCall(("mknod",), errno.EPERM, _node_mode_in(1)),
    RefusedCall(("mknodat",), errno.EPERM, _node_mode_in(2)),
    # The mode is behind a pointer, which a filter cannot read. Every program that uses openat2 falls back to openat.
    RefusedCall(("openat2",), errno.ENOSYS),
    # File capabilities are extended attributes. The store keeps no extended attributes.
    RefusedCall(("setxattr", "lsetxattr", "fsetxattr", "setxattrat"), errno.EOPNOTSUPP),
    # No nested namespaces: a user namespace exposes less tested parts of the kernel.
    RefusedCall(("clone",), errno.EPERM, (AnyBits(0, _NEW_NAMESPACES),)),
    RefusedCall(("unshare",), errno.EPERM, (AnyBits(0, _NEW_NAMESPACES | _CLONE_NEWTIME),)),
    RefusedCall(("setns",), errno.EPERM),
    # The flags are behind a pointer, which a filter cannot read. Every libc falls back to clone.
    RefusedCall(("clone3",), errno.ENOSYS),
    # Requests through io_uring bypass the filter. Programs that use it also run on kernels without it.
    RefusedCall(("io_uring_setup", "io_uring_enter", "io_uring_register"), errno.ENOSYS),
    # vsock reaches the machine's hypervisor from any network namespace. The other families are rarely tested code.
    RefusedCall(("socket", "socketpair"), errno.EAFNOSUPPORT, (OneOf(0, _SOCKET_FAMILIES, negated=True),)),
    # Calls that need capabilities, or that a host's settings may allow to everybody (kernel log, profiling).
    RefusedCall(("bpf", "perf_event_open", "syslog", "open_by_handle_at"), errno.EPERM),
    RefusedCall(("userfaultfd",), errno.ENOSYS),
    RefusedCall(
        ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"), errno.EPERM
    ),
    RefusedCall(("mount", "umount2", "pivot_root", "chroot"), errno.EPERM),
    # The newer mount calls. Without them, libmount falls back to mount().
    RefusedCall(("open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount"), errno.ENOSYS),
    RefusedCall(("fspick", "mount_setattr"), errno.ENOSYS),
)

# From 424 on, system calls have the same numbers on all architectures.
_COMMON_CALLS: Final = MappingProxyType(
    {
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "open_tree": 428,
        "move_mount": 429,
        "fsopen": 430,
        "fsconfig": 431,
        "fsmount": 432,
        "fspick": 433,
        "clone3": 435,
        "openat2": 437,
        "pidfd_getfd": 438,
        "mount_setattr": 442,
        "fchmodat2": 452,
        "setxattrat": 463,
        "open_tree_attr": 467,
    }
)

_X86_64_CALLS: Final = MappingProxyType(
    {
        "open": 2,
        "ioctl": 16,
        "socket": 41,
        "socketpair": 53,
        "clone": 56,
        "mkdir": 83,
        "creat": 85,
        "chmod": 90,
        "fchmod": 91,
        "ptrace": 101,
        "syslog": 103,
        "mknod": 133,
        "pivot_root": 155,
        "chroot": 161,
        "mount": 165,
        "umount2": 166,
        "reboot": 169,
        "init_module": 175,
        "delete_module": 176,
        "setxattr": 188,
        "lsetxattr": 189,
        "fsetxattr": 190,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "openat": 257,
        "mkdirat": 258,
        "mknodat": 259,
        "fchmodat": 268,
        "unshare": 272,
        "perf_event_open": 298,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "finit_module": 313,
        "kexec_file_load": 320,
        "bpf": 321,
        "userfaultfd": 323,
    }
)

# arm64 never had the older calls without "at" (open, mkdir, chmod, …).
_AARCH64_CALLS: Final = MappingProxyType(
    {
        "setxattr": 5,
        "lsetxattr": 6,
        "fsetxattr": 7,
        "ioctl": 29,
        "mknodat": 33,
        "mkdirat": 34,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "chroot": 51,
        "fchmod": 52,
        "fchmodat": 53,
        "openat": 56,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "delete_module": 106,
        "syslog": 116,
        "ptrace": 117,
        "reboot": 142,
        "socket": 198,
        "socketpair": 199,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "clone": 220,
        "perf_event_open": 241,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "finit_module": 273,
        "bpf": 280,
        "userfaultfd": 282,
        "kexec_file_load": 294,
    }
)


@dataclass(frozen=True, slots=True)
class SyscallTable:
    """The audit number and the system calls of an architecture. With `has_x32`, a second ABI has the same number."""

    name: str
    audit: int
    calls: dict[str, int]
    has_x32: bool = False


MACHINES: Final = MappingProxyType(
    {
        "x86_64": SyscallTable("x86_64", 0xC000003E, {**_X86_64_CALLS, **_COMMON_CALLS}, has_x32=True),
        "aarch64": SyscallTable("aarch64", 0xC00000B7, {**_AARCH64_CALLS, **_COMMON_CALLS}),
    }
)


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One instruction. A jump names its targets by labels; "" stands for the next instruction."""

    code: int
    value: int
    if_true: str = ""
    if_false: str = ""


class _Assembler:
    """Collects instructions and labels. `bytes()` gives the program with resolved jumps, which all lead forward."""

    def __init__(self) -> None:
        self._fresh = 0
        self._instructions: list[_Instruction] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, value: int, if_true: str = "", if_false: str = "") -> None:
        self._instructions.append(_Instruction(code, value, if_true, if_false))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def fresh(self, stem: str) -> str:
        """A new, unused label."""
        self._fresh += 1
        return f"{stem}{self._fresh}"

    def __bytes__(self) -> bytes:
        return b"".join(self._encode(at, instruction) for at, instruction in enumerate(self._instructions))

    def _encode(self, at: int, instruction: _Instruction) -> bytes:
        if instruction.code == _JMP_JA:
            return struct.pack("=HBBI", _JMP_JA, 0, 0, self._distance(at, instruction.if_true))
        true, false = (self._distance(at, label) for label in (instruction.if_true, instruction.if_false))
        return struct.pack("=HBBI", instruction.code, true, false, instruction.value)

    def _distance(self, at: int, label: str) -> int:
        return self._labels[label] - at - 1 if label else 0


@cache
def build_filter(machine: str) -> bytes:
    """The filter for a machine as `struct sock_filter[]`, the format of bwrap's `--seccomp`.

    Raises ExecutorError (`unknown-machine`) for a machine whose system calls are not listed here.
    """
    known = MACHINES.get(machine)
    if known is None:
        raise ExecutorError(
            f"make the system call filter: forge cannot build on {machine}",
            detail=f"Builds run on {', '.join(MACHINES)}.",
            reason="unknown-machine",
        )
    program = _Assembler()
    program.add(_LD_W_ABS, _OFFSET_ARCH)
    program.add(_JMP_JEQ, known.audit, "native")
    program.add(_RET, KILL_PROCESS)
    program.label("native")
    program.add(_LD_W_ABS, _OFFSET_NR)
    if known.has_x32:
        program.add(_JMP_JGE, _X32_BIT, "", "lookup")
        program.add(_RET, _ERRNO | errno.ENOSYS)
        program.label("lookup")
    rules = {known.calls[call]: refusal for refusal in REFUSALS for call in refusal.calls if call in known.calls}
    _add_lookup(program, sorted(rules.items()))
    return bytes(program)


def _add_lookup(program: _Assembler, rules: list[tuple[int, RefusedCall]]) -> None:
    """Add code that finds the loaded call number among the sorted rules and returns the answer."""
    if len(rules) == 1:
        number, refusal = rules[0]
        found, other = program.fresh("found"), program.fresh("other")
        program.add(_JMP_JEQ, number, found, other)
        program.label(other)
        program.add(_RET, ALLOW)
        program.label(found)
        _add_answer(program, refusal)
        return
    middle = len(rules) // 2
    upper = program.fresh("upper")
    # A conditional jump reaches 255 instructions, and the far half may be further away. JA reaches any distance.
    program.add(_JMP_JGE, rules[middle][0], "", near := program.fresh("near"))
    program.add(_JMP_JA, 0, upper)
    program.label(near)
    _add_lookup(program, rules[:middle])
    program.label(upper)
    _add_lookup(program, rules[middle:])


def _add_answer(program: _Assembler, refusal: RefusedCall) -> None:
    """Add code that returns the answer for a listed call."""
    for test in refusal.tests:
        refused, passed = program.fresh("refused"), program.fresh("passed")
        if isinstance(test, AnyBits):
            _add_any_bits(program, test, refused, passed)
        else:
            _add_one_of(program, test, refused, passed)
        program.label(refused)
        program.add(_RET, _ERRNO | refusal.error)
        program.label(passed)
    program.add(_RET, ALLOW if refusal.tests else _ERRNO | refusal.error)


def _add_any_bits(program: _Assembler, test: AnyBits, refused: str, passed: str) -> None:
    if test.only_if is not None:
        argument, bits = test.only_if
        program.add(_LD_W_ABS, _low_half(argument))
        program.add(_JMP_JSET, bits, "", passed)
    program.add(_LD_W_ABS, _low_half(test.argument))
    program.add(_JMP_JSET, test.bits, refused, passed)


def _add_one_of(program: _Assembler, test: OneOf, refused: str, passed: str) -> None:
    listed, unlisted = (passed, refused) if test.negated else (refused, passed)
    program.add(_LD_W_ABS, _low_half(test.argument))
    if test.mask != 0xFFFFFFFF:
        program.add(_ALU_AND, test.mask)
    for value in test.values[:-1]:
        program.add(_JMP_JEQ, value, listed)
    program.add(_JMP_JEQ, test.values[-1], listed, unlisted)


def _low_half(argument: int) -> int:
    """The offset of an argument's low 32 bits. Every listed machine is little-endian."""
    return _OFFSET_ARGS + 8 * argument
