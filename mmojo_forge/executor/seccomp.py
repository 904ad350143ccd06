"""The sandbox's system call filter, as classic BPF: what a build may not ask the kernel for, and what it hears then.

The filter is a list of refusals; everything else is allowed, since namespaces, dropped capabilities and
`no_new_privs` already hold. It closes what those leave open (keyrings and vsock belong to no namespace, a terminal
can be typed into) and doubles what one kernel bug could undo (user namespaces, mounts, modules).

The program looks a call up in a balanced tree, as it runs before every system call whose answer depends on an
argument; for the others the kernel remembers the answer.

    load arch ── other ABI ──▶ KILL
       │
    load nr ── x32 bit ──▶ ENOSYS
       │
    binary search ── not listed ──▶ ALLOW
       │
    argument tests ── one matches ──▶ errno ── none ──▶ ALLOW

Errors are chosen so that a program takes the way it takes elsewhere: ENOSYS where it has an older call to fall back on
or expects kernels without the feature, EPERM where the feature exists and this user may not, and EOPNOTSUPP for
extended attributes, which cp, tar and rsync then leave out quietly.
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

# The bit that marks x32 calls. It also takes in -1, the number of a call that a tracer skipped.
_X32_BIT: Final = 0x40000000

_SET_ID: Final = 0o6000
_FILE_TYPE: Final = 0o170000
_CREATING: Final = 0o100 | 0o20000000  # O_CREAT | __O_TMPFILE: without them the kernel looks at no mode
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME's bit belongs to clone's exit signal.
_NEW_NAMESPACES: Final = 0x7E020000
_CLONE_NEWTIME: Final = 0x80
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_SOCKET_FAMILIES: Final = (1, 2, 10, 16)  # unix, inet, inet6, netlink


@dataclass(frozen=True, slots=True)
class AnyBits:
    """Matches when one of `bits` is set in the argument, and one of `only_if[1]` in argument `only_if[0]`.

    Only the low 32 bits are looked at, as the kernel does for these arguments: a compare of all 64 could be passed by
    a bit that the kernel then ignores (CVE-2019-10063).
    """

    argument: int
    bits: int
    only_if: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Matches when the low 32 bits of the argument, masked, are one of `values`; or none of them, if `negated`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    negated: bool = False


Test = AnyBits | OneOf


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """Calls that are refused with `error`: always, or when one of `tests` matches."""

    calls: tuple[str, ...]
    error: int
    tests: tuple[Test, ...] = ()


def _mode_in(argument: int, only_if: tuple[int, int] | None = None) -> tuple[Test, ...]:
    return (AnyBits(argument, _SET_ID, only_if),)


def _node_mode_in(argument: int) -> tuple[Test, ...]:
    return (*_mode_in(argument), OneOf(argument, (0o020000, 0o060000), _FILE_TYPE))


REFUSALS: Final = (
    # Keyrings belong to the user, not to a namespace. As on kernels without CONFIG_KEYS.
    RefusedCall(("add_key", "request_key", "keyctl"), errno.ENOSYS),
    # Reading and driving other processes: within the sandbox no build needs it, and it is the door to supervisors.
    RefusedCall(("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"), errno.EPERM),
    # Typing into a terminal, pasting into a console (CVE-2017-5226).
    RefusedCall(("ioctl",), errno.EPERM, (OneOf(1, (_TIOCSTI, _TIOCLINUX)),)),
    # A setuid file in an output would be one for whoever unpacks it. EPERM is what a mount that refuses them says.
    RefusedCall(("chmod", "fchmod", "creat", "mkdir"), errno.EPERM, _mode_in(1)),
    RefusedCall(("fchmodat", "fchmodat2", "mkdirat"), errno.EPERM, _mode_in(2)),
    RefusedCall(("open",), errno.EPERM, _mode_in(2, (1, _CREATING))),
    RefusedCall(("openat",), errno.EPERM, _mode_in(3, (2, _CREATING))),
    RefusedCall(("mknod",), errno.EPERM, _node_mode_in(1)),
    RefusedCall(("mknodat",), errno.EPERM, _node_mode_in(2)),
    # Its mode lies behind a pointer, where a filter cannot look. Every user falls back to openat.
    RefusedCall(("openat2",), errno.ENOSYS),
    # File capabilities are extended attributes; no store keeps any.
    RefusedCall(("setxattr", "lsetxattr", "fsetxattr", "setxattrat"), errno.EOPNOTSUPP),
    # No namespaces within ours: a user namespace opens the kernel's less-tried parts.
    RefusedCall(("clone",), errno.EPERM, (AnyBits(0, _NEW_NAMESPACES),)),
    RefusedCall(("unshare",), errno.EPERM, (AnyBits(0, _NEW_NAMESPACES | _CLONE_NEWTIME),)),
    RefusedCall(("setns",), errno.EPERM),
    # Its flags lie behind a pointer; every libc falls back to clone.
    RefusedCall(("clone3",), errno.ENOSYS),
    # Its requests pass no filter. Its users expect kernels without it.
    RefusedCall(("io_uring_setup", "io_uring_enter", "io_uring_register"), errno.ENOSYS),
    # vsock reaches the machine's hypervisor from any network namespace; the rest is rarely tried kernel code.
    RefusedCall(("socket", "socketpair"), errno.EAFNOSUPPORT, (OneOf(0, _SOCKET_FAMILIES, negated=True),)),
    # What capabilities guard already, or a host's setting leaves open (kernel log, profiling).
    RefusedCall(("bpf", "perf_event_open", "syslog", "open_by_handle_at"), errno.EPERM),
    RefusedCall(("userfaultfd",), errno.ENOSYS),
    RefusedCall(
        ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"), errno.EPERM
    ),
    RefusedCall(("mount", "umount2", "pivot_root", "chroot"), errno.EPERM),
    # The newer mount calls: a libmount that finds none of them tries mount().
    RefusedCall(("open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount"), errno.ENOSYS),
    RefusedCall(("fspick", "mount_setattr"), errno.ENOSYS),
)

# Numbers from 424 on are the same everywhere.
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

# arm64 never had the calls without "at".
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
    """One architecture: its audit number and its system calls. `has_x32` where a second ABI shares the number."""

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
    """One instruction; a jump names its targets by label, `""` being the next instruction."""

    code: int
    value: int
    if_true: str = ""
    if_false: str = ""


class _Assembler:
    """Collects instructions and labels; `bytes()` gives the program with the jumps resolved, all of them forward."""

    def __init__(self) -> None:
        self._fresh = 0
        self._instructions: list[_Instruction] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, value: int, if_true: str = "", if_false: str = "") -> None:
        self._instructions.append(_Instruction(code, value, if_true, if_false))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def fresh(self, stem: str) -> str:
        """A label that is not in use."""
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
    """The filter for a machine as `struct sock_filter[]`, as bwrap's `--seccomp` reads it.

    Raises ExecutorError for a machine whose system calls are not listed here.
    """
    known = MACHINES.get(machine)
    if known is None:
        raise ExecutorError(
            f"make the system call filter: {machine} is not a machine forge builds on",
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
    """Code that finds the loaded number among the sorted rules and answers."""
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
    # The far half may be further away than the 255 instructions that a conditional jump reaches.
    program.add(_JMP_JGE, rules[middle][0], "", near := program.fresh("near"))
    program.add(_JMP_JA, 0, upper)
    program.label(near)
    _add_lookup(program, rules[:middle])
    program.label(upper)
    _add_lookup(program, rules[middle:])


def _add_answer(program: _Assembler, refusal: RefusedCall) -> None:
    """Code that answers for a call that is listed."""
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
    """Where the low 32 bits of an argument lie; every machine listed is little-endian."""
    return _OFFSET_ARGS + 8 * argument
