"""Finds out whether this machine can sandbox builds, and if not, which setting prevents it and how to change that.

bwrap's messages name the step that failed, but rarely the cause, which is in the kernel's settings. So forge examines
the settings first, and only after a sandbox has failed: successful builds pay nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.executor import sandbox
from mmojo_forge.executor.request import ExecutorError

# bubblewrap 0.6 added --size, 0.8 added --disable-userns.
_OLDEST = (0, 6, 0)
_CAN_DISABLE_USERNS = (0, 8, 0)

APPARMOR_PROFILE = """\
abi <abi/4.0>,
include <tunables/global>

profile bwrap {path} flags=(unconfined) {{
  userns,
  include if exists <local/bwrap>
}}
"""


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A bwrap program and its version."""

    path: Path
    version: tuple[int, ...]

    @property
    def can_disable_userns(self) -> bool:
        """Whether it has `--disable-userns`."""
        return self.version >= _CAN_DISABLE_USERNS


@dataclass(frozen=True, slots=True)
class SandboxFinding:
    """The result of one check. `reason` names the problem, or is "" if there is none; `detail` is the fix."""

    subject: str
    state: str
    reason: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check found no problem."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Settings that decide whether a process may create namespaces. None means that the kernel lacks the setting."""

    is_root: bool
    unprivileged_userns_clone: int | None = None
    max_user_namespaces: int | None = None
    apparmor_restricts_userns: int | None = None
    in_container: bool = False
    has_seccomp_filter: bool = False

    @classmethod
    def read(cls) -> HostSettings:
        """The settings of this machine."""
        return cls(
            is_root=os.geteuid() == 0,
            unprivileged_userns_clone=_read_number("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces=_read_number("/proc/sys/user/max_user_namespaces"),
            apparmor_restricts_userns=_read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            in_container=any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
            has_seccomp_filter=bool(re.search(r"^Seccomp:\s*2$", _read_text("/proc/self/status"), re.MULTILINE)),
        )


def find_bubblewrap(program: Path | None = None) -> Bubblewrap:
    """The bwrap to use: `program`, or the one on PATH. Raises ExecutorError (`no-bwrap`, `bwrap-too-old`)."""
    found = str(program) if program is not None else shutil.which("bwrap")
    try:
        if found is None:
            raise FileNotFoundError("bwrap is not on PATH")
        answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExecutorError(
            f"find bwrap: {error}", detail="Install it: sudo apt-get install bubblewrap", reason="no-bwrap"
        ) from error
    version = tuple(int(number) for number in re.findall(r"\d+", answer)[:3])
    if version < _OLDEST:
        raise ExecutorError(
            f"find bwrap: {found} is version {'.'.join(map(str, version))}",
            detail=f"forge needs {'.'.join(map(str, _OLDEST))} or newer. Debian 12, Ubuntu 24.04 and later have it.",
            reason="bwrap-too-old",
        )
    return Bubblewrap(Path(found), version)


def probe(program: Path | None = None) -> list[SandboxFinding]:
    """The findings for `forge doctor`: this tries to make a sandbox, and diagnoses a failure."""
    try:
        bwrap = find_bubblewrap(program)
    except ExecutorError as error:
        return [SandboxFinding("bwrap", error.message, error.reason, error.detail)]
    findings = [SandboxFinding("bwrap", f"{bwrap.path} {'.'.join(map(str, bwrap.version))}")]
    message = _try_sandbox(bwrap)
    if message is None:
        return [*findings, SandboxFinding("sandbox", "works")]
    return [*findings, diagnose(message, HostSettings.read(), bwrap.path)]


def diagnose(message: str, settings: HostSettings, bwrap: Path) -> SandboxFinding:
    """The cause of bwrap's message, as far as the machine's settings show it, and the commands that fix it."""
    said = message.strip() or "bwrap died without a message"
    for applies, reason, detail in _causes(said, settings, bwrap):
        if applies:
            return SandboxFinding("sandbox", said, reason, detail)
    return SandboxFinding(
        "sandbox", said, "sandbox-failed", "forge knows no cause for bwrap's message. Please report it."
    )


def _causes(said: str, settings: HostSettings, bwrap: Path) -> tuple[tuple[bool, str, str], ...]:
    """The known causes: whether each applies, its reason and its fix. The first that applies is the diagnosis.

    Settings come before bwrap's messages, because several settings cause the same message.
    """
    container = settings.in_container or settings.has_seccomp_filter
    return (
        (
            settings.max_user_namespaces == 0,
            "no-user-namespaces",
            _setting("user.max_user_namespaces", 65536),
        ),
        (
            settings.unprivileged_userns_clone == 0 and not settings.is_root,
            "userns-clone-disabled",
            _setting("kernel.unprivileged_userns_clone", 1),
        ),
        (
            settings.apparmor_restricts_userns == 1 and not settings.is_root,
            "apparmor-restricts-userns",
            _apparmor_fix(bwrap),
        ),
        (
            "mount proc" in said or "/newroot/proc" in said,
            "masked-proc",
            "The container engine hides parts of /proc, so bwrap cannot mount a new /proc. Start the container with\n"
            "  --security-opt systempaths=unconfined (Docker) or --security-opt unmask=ALL (Podman).",
        ),
        (
            container,
            "container-forbids-namespaces",
            "The container's system call filter or AppArmor profile forbids namespaces. Start it with\n"
            "  --security-opt seccomp=unconfined --security-opt apparmor=unconfined\n"
            "  --security-opt systempaths=unconfined",
        ),
        (
            # The kernel answers ENOSPC when the namespaces of a user or of a parent namespace are used up.
            "No space left" in said,
            "no-user-namespaces",
            _setting("user.max_user_namespaces", 65536),
        ),
    )


def explain_failure(name: str, bwrap: Bubblewrap, message: bytes, missing: Path | None) -> ExecutorError:
    """The error for a sandbox that bwrap could not set up; `missing` is an input that does not exist, if any."""
    if missing is not None:
        return ExecutorError(
            f"build {name}: {missing} does not exist",
            detail="The build needs it in its sandbox. Run `forge store verify` to find other missing files.",
            reason="missing-input",
        )
    finding = diagnose(message.decode(errors="replace"), HostSettings.read(), bwrap.path)
    return ExecutorError(
        f"build {name}: cannot make a sandbox: {finding.state}", detail=finding.detail, reason=finding.reason
    )


def _try_sandbox(bwrap: Bubblewrap) -> str | None:
    """The message of a bwrap that cannot make a sandbox with the contract's namespaces, or None if it can."""
    argv = [str(bwrap.path), *sandbox.isolation(bwrap.can_disable_userns)]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", str(bwrap.path), "--version"]
    trial = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if trial.returncode == 0 else trial.stderr


def _setting(name: str, value: int) -> str:
    return (
        f"The kernel setting {name} prevents sandboxes. Change it now and permanently:\n"
        f"  sudo sysctl -w {name}={value}\n"
        f"  echo {name}={value} | sudo tee /etc/sysctl.d/60-forge.conf"
    )


def _apparmor_fix(bwrap: Path) -> str:
    profile = APPARMOR_PROFILE.format(path=bwrap)
    return (
        "AppArmor denies user namespaces to ordinary users (kernel.apparmor_restrict_unprivileged_userns=1). Allow\n"
        "them for bwrap only:\n"
        f"  sudo tee /etc/apparmor.d/bwrap <<'END'\n{profile}END\n"
        "  sudo apparmor_parser -r /etc/apparmor.d/bwrap"
    )


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _read_number(path: str) -> int | None:
    text = _read_text(path).strip()
    return int(text) if text.isdigit() else None
