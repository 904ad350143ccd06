"""Whether builds can be sandboxed on this machine, and if not, which setting is in the way and what changes it.

bwrap's own messages name the step that failed and rarely the cause, which lies in the kernel's settings; so the
settings are asked first, and only when a sandbox has failed: looking costs nothing while all is well.
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

# --size came with 0.6, --disable-userns with 0.8.
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
    """The bwrap that was found, and its version."""

    path: Path
    version: tuple[int, ...]

    @property
    def can_disable_userns(self) -> bool:
        """Whether it has `--disable-userns`."""
        return self.version >= _CAN_DISABLE_USERNS


@dataclass(frozen=True, slots=True)
class SandboxFinding:
    """One thing that was looked at: `reason` is empty when it is well, else names the trouble; `detail` is the fix."""

    subject: str
    state: str
    reason: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What decides whether a process here may make namespaces; a setting the kernel does not have is None."""

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
    """The bwrap to use: `program`, or the one on PATH. Raises ExecutorError if there is none that will do."""
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
            detail=f"forge needs {'.'.join(map(str, _OLDEST))} or newer: Debian 12, Ubuntu 24.04 and later have it.",
            reason="bwrap-too-old",
        )
    return Bubblewrap(Path(found), version)


def probe(program: Path | None = None) -> list[SandboxFinding]:
    """What stands in the way of sandboxed builds here, looked at by making a sandbox; for `forge doctor`."""
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
    """The cause of what bwrap said, as far as the machine's settings tell, and the commands that mend it."""
    said = message.strip() or "bwrap died without a word"
    for applies, reason, detail in _causes(said, settings, bwrap):
        if applies:
            return SandboxFinding("sandbox", said, reason, detail)
    return SandboxFinding(
        "sandbox", said, "sandbox-failed", "bwrap's message is all there is to go by; please report it."
    )


def _causes(said: str, settings: HostSettings, bwrap: Path) -> tuple[tuple[bool, str, str], ...]:
    """Causes with their names and fixes, the one that explains most first."""
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
            "A container engine hides parts of /proc, so no new one can be mounted. Start the container with\n"
            "  --security-opt systempaths=unconfined (Docker), --security-opt unmask=ALL (Podman).",
        ),
        (
            container,
            "container-forbids-namespaces",
            "The container's system call filter or AppArmor profile forbids namespaces. Start it with\n"
            "  --security-opt seccomp=unconfined --security-opt apparmor=unconfined\n"
            "  --security-opt systempaths=unconfined",
        ),
        (
            "No space left" in said,
            "no-user-namespaces",
            _setting("user.max_user_namespaces", 65536),
        ),
    )


def explain_failure(name: str, bwrap: Bubblewrap, message: bytes, missing: Path | None) -> ExecutorError:
    """Why bwrap could not set up the sandbox of build `name`; `missing` is an input that is not there, if any."""
    if missing is not None:
        return ExecutorError(
            f"build {name}: {missing} does not exist",
            detail="It was to be mounted into the sandbox. `forge store verify` finds out what else is missing.",
            reason="missing-input",
        )
    finding = diagnose(message.decode(errors="replace"), HostSettings.read(), bwrap.path)
    return ExecutorError(f"build {name}: no sandbox: {finding.state}", detail=finding.detail, reason=finding.reason)


def _try_sandbox(bwrap: Bubblewrap) -> str | None:
    """What bwrap says when it cannot make a sandbox of the contract's namespaces; None when it can."""
    argv = [str(bwrap.path), *sandbox.isolation(bwrap.can_disable_userns)]
    argv += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", str(bwrap.path), "--version"]
    trial = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if trial.returncode == 0 else trial.stderr


def _setting(name: str, value: int) -> str:
    return (
        f"The kernel setting {name} is in the way. Change it now and for good:\n"
        f"  sudo sysctl -w {name}={value}\n"
        f"  echo {name}={value} | sudo tee /etc/sysctl.d/60-forge.conf"
    )


def _apparmor_fix(bwrap: Path) -> str:
    profile = APPARMOR_PROFILE.format(path=bwrap)
    return (
        "AppArmor forbids user namespaces to ordinary users (kernel.apparmor_restrict_unprivileged_userns=1). Allow\n"
        "them to bwrap alone:\n"
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
