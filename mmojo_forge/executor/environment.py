"""The environment that every build starts from: the sandbox contract's variables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Not 0: OpenSSL's build takes 0 for "unset" and embeds the clock.
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
    """The contract's variables with a build's own over them, sorted by name."""
    merged = {**SANDBOX_ENVIRONMENT, **(env or {})}
    return {key: merged[key] for key in sorted(merged)}
