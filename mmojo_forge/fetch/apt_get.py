"""Runs apt-get as a resolver in a separate folder: private configuration, state and cache, no root, no host packages.

The result depends only on Debian's archives. apt's sources are Debian's archives of one suite, it checks their Release
files against Debian's keyring, and the dpkg status is empty. From the host's apt configuration it gets only settings
for the network and for date checks.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.digest import blake3_hex
from mmojo_forge.net.url import redacted_text

KEYRINGS = (
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
)
_SECONDS = 900
# Lines of `apt-config dump` that the folder's apt.conf copies: proxies, certificates, date checks, IP version.
_TAKEN_OVER = re.compile(
    r'Acquire::(?:(?:http|https)::[^"]*|Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6) "[^"\n]*";', re.IGNORECASE
)
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class AptRoom:
    """A folder set up for apt-get, with current lists. Its lock is held while the context of `apt_room` lasts."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def lists(self) -> Path:
        """The folder of the uncompressed indexes: `<host>_<path>_Packages` and `…_Sources`."""
        return self.folder / "lists"

    def run(self, *command: str) -> str:
        """The command's output; raises AptFailed with apt's messages."""
        done = subprocess.run(
            command,
            env=dict(self.environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise AptFailed(_error_lines(done.stderr))
        return done.stdout


class AptFailed(Exception):
    """apt's error messages, one per line."""


@contextmanager
def apt_room(settings: FetchSettings, sources: Sequence[str], architecture: str) -> Iterator[AptRoom]:
    """A folder for apt-get with these sources (deb822 paragraphs without Signed-By), updated; raises FetchError."""
    apt_get = shutil.which("apt-get", path=settings.environment.get("PATH"))
    if apt_get is None:
        raise FetchError(
            "resolve Debian packages: apt-get is not installed",
            detail="Only `forge lock` needs it. Run that on Debian or Ubuntu, or install the package `apt`.",
            reason="apt-missing",
        )
    trust = "Trusted: yes\n" if settings.trust_unsigned_debian else f"Signed-By: {_keyring(settings)}\n"
    text = "\n".join(f"{paragraph}{trust}" for paragraph in sources)
    state = settings.state_folder("apt")
    folder = state / blake3_hex(f"{architecture}\n{text}".encode())[:16]
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        room = AptRoom(folder, _set_up(folder, settings, text, architecture))
        try:
            room.run("apt-get", "update", "-qq")
        except (AptFailed, subprocess.TimeoutExpired) as failure:
            raise FetchError(
                "read Debian's indexes: apt-get update failed",
                detail=f"{failure}\nTo use another mirror, set FORGE_DEBIAN_MIRROR and FORGE_DEBIAN_SECURITY_MIRROR.",
                reason="debian-index-unavailable",
            ) from failure
        yield room


def _keyring(settings: FetchSettings) -> Path:
    for name in KEYRINGS:
        path = settings.machine / name
        if path.is_file():
            return path
    raise FetchError(
        "resolve Debian packages: Debian's keyring is not installed, so signatures cannot be checked",
        detail="Install it: apt-get install debian-archive-keyring",
        reason="debian-keyring-missing",
    )


def _set_up(folder: Path, settings: FetchSettings, sources: str, architecture: str) -> dict[str, str]:
    for name in ("lists/partial", "cache/archives/partial", "etc", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")
    (folder / "forge.sources").write_text(sources)
    environment = _environment(settings)
    configuration = _CONFIGURATION.format(folder=folder, architecture=architecture)
    if any(name.startswith("FORGE_DEBIAN_") for name in settings.environment):
        # The mirror is probably a snapshot. Its Release files are signed, but have expired.
        configuration += 'Acquire::Check-Valid-Until "false";\n'
    (folder / "apt.conf").write_text(_network_settings(environment) + configuration)
    return {**environment, "APT_CONFIG": str(folder / "apt.conf")}


# Every path points into the folder or to /dev/null. apt 3 has another default solver, which can choose otherwise.
# Update::Error-Mode "any" makes `apt-get update` fail if one index fails; by default it keeps old indexes and succeeds.
_CONFIGURATION = """\
Dir "{folder}/";
Dir::State "{folder}/";
Dir::State::lists "{folder}/lists/";
Dir::State::status "{folder}/status";
Dir::State::extended_states "{folder}/extended_states";
Dir::Cache "{folder}/cache/";
Dir::Etc "{folder}/etc/";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{folder}/forge.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{folder}/etc/";
Dir::Log "{folder}/log/";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Solver "internal";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::PDiffs "false";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
"""


def _environment(settings: FetchSettings) -> dict[str, str]:
    given = settings.environment
    kept = {name: given[name] for name in _KEPT_VARIABLES if name in given}
    for name in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if name in given:
            kept[name] = given[name]
    # apt's helpers (gpgv, methods) are in these folders, which a user's PATH may lack.
    kept["PATH"] = os.pathsep.join([kept.get("PATH", ""), "/usr/sbin:/usr/bin:/sbin:/bin"]).lstrip(os.pathsep)
    return {**kept, "LC_ALL": "C.UTF-8"}


def _network_settings(environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["apt-config", "dump"],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return "".join(f"{line}\n" for line in done.stdout.splitlines() if _TAKEN_OVER.fullmatch(line))


def _error_lines(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return redacted_text("\n".join(lines or stderr.splitlines()[-10:]))


def require_names(names: Sequence[str], pattern: re.Pattern[str], what: str) -> None:
    """Raise FetchError unless all names fit the pattern. apt-get gets them as arguments, so none may be an option."""
    for name in names:
        if not pattern.fullmatch(name):
            raise FetchError(f"resolve Debian packages: {name!r} is not a valid {what}", reason="debian-bad-name")
