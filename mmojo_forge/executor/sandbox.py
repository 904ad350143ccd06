"""The sandbox contract as bubblewrap's command line, for a build and for a shell in the sandbox of a failed build.

    /            tmpfs, read-only          /build      request.work, writable
    /usr, …      inputs, read-only         /forge/out  request.out, writable
    /bin, /lib…  links to usr, if mounted  /tmp        tmpfs, writable, as /dev/shm
    /etc         passwd, group, hosts…     /dev, /proc minimal, read-only

bwrap reads its options from a memory file. Pid 1 of the sandbox keeps bwrap's command line, where every build could
read the names of this machine's directories. For the same reason, bwrap starts with an empty environment.

Namespaces do not hide everything. A build can still learn:
- the kernel's version and command line, cpuinfo, meminfo, load, uptime, the boot id, the clock, the number of CPUs;
- the paths of bind mounts within their file systems (/proc/self/mountinfo);
- the kind of file system under /build, its inode numbers and times;
- the number of a descriptor in bwrap's command line;
- forge's own personality, where the kernel forbids a change (personality.py).
It cannot learn the host's name, users, processes, files or network.

`SANDBOX_ENVIRONMENT` has the variables that every build starts with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Self

from mmojo_forge.executor.request import OUT, WORK, BuildRequest

# SOURCE_DATE_EPOCH is 1, because OpenSSL's build treats 0 as unset and embeds the current time.
SANDBOX_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "HOME": "/build/home",
        "LC_ALL": "C.UTF-8",
        "LOGNAME": "forge",
        "PATH": "/usr/bin:/bin",
        "PWD": "/build",
        "SHELL": "/bin/sh",
        "SOURCE_DATE_EPOCH": "1",
        "TERM": "dumb",
        "TMPDIR": "/tmp",
        "TZ": "UTC",
        "USER": "forge",
    }
)


def sandbox_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The contract's variables, overridden by a build's own, sorted by name."""
    merged = {**SANDBOX_ENVIRONMENT, **(env or {})}
    return {key: merged[key] for key in sorted(merged)}


UID = 1000
HOSTNAME = "forge"

ETC_FILES = MappingProxyType(
    {
        "passwd": b"root:x:0:0:root:/root:/bin/sh\n"
        b"forge:x:1000:1000:forge:/build/home:/bin/sh\n"
        b"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "group": b"root:x:0:\nforge:x:1000:\nnogroup:x:65534:\n",
        "nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
        "hosts": b"127.0.0.1 localhost forge\n::1 localhost\n",
    }
)


@dataclass(slots=True)
class SandboxCommand:
    """A bwrap command line, and the open descriptors that bwrap must inherit.

    The caller writes the system call filter to `filter_pipe` and then closes it. After bwrap has set the sandbox up, it
    waits for the filter before it starts the builder, and dies without it.
    """

    argv: tuple[str, ...]
    descriptors: tuple[int, ...]
    filter_pipe: int = -1
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's copies of the descriptors that bwrap inherits."""
        self._stack.close()


def build_command(
    request: BuildRequest, *, disable_userns: bool, status: int | None, argv: tuple[str, ...] | None = None
) -> SandboxCommand:
    """The command that runs `argv`, or else the request's own command, in the request's sandbox.

    bwrap reports to the descriptor `status` (`--json-status-fd`). The caller closes `status` and the writing end of the
    filter pipe.
    """
    with ExitStack() as stack:
        etc = {name: _hold(stack, _memory_file(name, content)) for name, content in ETC_FILES.items()}
        filter_end, filter_pipe = os.pipe()
        _hold(stack, filter_end)
        # The caller owns the writing end, so it is closed here only after an error.
        writing_end = ExitStack()
        stack.push(lambda *failure: writing_end.close() if failure[0] else None)
        _hold(writing_end, filter_pipe)
        options = [
            *isolation(disable_userns),
            *("--seccomp", str(filter_end)),
            *(("--json-status-fd", str(status)) if status is not None else ()),
            *_environment(request),
            *_system_files(request, etc),
            *_request_files(request),
        ]
        arguments = _hold(stack, _memory_file("bwrap-arguments", b"".join(os.fsencode(o) + b"\0" for o in options)))
        return SandboxCommand(
            argv=("bwrap", "--args", str(arguments), "--", *(argv or request.argv)),
            descriptors=(arguments, filter_end, *etc.values(), *((status,) if status is not None else ())),
            filter_pipe=filter_pipe,
            _stack=stack.pop_all(),
        )


def isolation(disable_userns: bool) -> list[str]:
    """Options for namespaces and privileges. Some repeat `--unshare-all`, which only tries those."""
    return [
        *("--unshare-all", "--unshare-user", "--unshare-cgroup"),
        *(["--disable-userns"] if disable_userns else []),
        *("--uid", str(UID), "--gid", str(UID), "--hostname", HOSTNAME),
        # If root runs it, bwrap keeps every capability of the namespace by default.
        *("--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--clearenv"),
    ]


def _environment(request: BuildRequest) -> list[str]:
    return [word for key, value in sorted(request.env.items()) for word in ("--setenv", key, value)]


def _system_files(request: BuildRequest, etc: dict[str, int]) -> list[str]:
    """Options for the files that every sandbox has. The memory limit also bounds files on a tmpfs."""
    tmpfs = ["--perms", "1777", "--size", str(request.limits.memory_bytes), "--tmpfs"]
    options = ["--proc", "/proc", "--remount-ro", "/proc"]
    options += ["--dev", "/dev", *tmpfs, "/dev/shm", "--remount-ro", "/dev", *tmpfs, "/tmp"]
    for name, descriptor in etc.items():
        options += ["--perms", "0644", "--file", str(descriptor), f"/etc/{name}"]
    if any(mount.at == "/usr" for mount in request.mounts):
        for name in ("bin", "sbin", "lib", "lib64"):
            options += ["--symlink", f"usr/{name}", f"/{name}"]
    return options


def _request_files(request: BuildRequest) -> list[str]:
    options = [word for parent in _list_parents(request) for word in ("--dir", parent)]
    for mount in sorted(request.mounts, key=lambda mount: mount.at):
        options += ["--ro-bind", str(mount.source), mount.at]
    options += ["--bind", str(request.work), WORK, "--dir", f"{WORK}/home"]
    options += ["--bind", str(request.out), OUT]
    return [*options, "--remount-ro", "/", "--chdir", WORK]


def _list_parents(request: BuildRequest) -> list[str]:
    """The parent directories of inputs, outermost first. bwrap versions would create them with different modes."""
    places = (PurePosixPath(at) for at in (OUT, *(mount.at for mount in request.mounts)))
    return sorted({str(parent) for place in places for parent in place.parents} - {"/"})


def _hold(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _memory_file(name: str, content: bytes) -> int:
    """A descriptor of a memory file with this content, positioned at its start."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def find_missing_source(request: BuildRequest) -> Path | None:
    """The first of the request's directories and inputs that does not exist, or None."""
    paths = (request.work, request.out, *(mount.source for mount in request.mounts))
    return next((path for path in paths if not path.exists()), None)
