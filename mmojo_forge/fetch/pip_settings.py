"""pip's own configuration: which indexes it uses on this machine.

As pip does it: files of the machine, the user and the environment, then PIP_CONFIG_FILE, then PIP_* variables; in a
file, [download] overrides [global]. `find-links` folders are not read: their files have no digests to check.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pypi_simple import PYPI_SIMPLE_ENDPOINT

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.settings import FetchSettings, home_of
from mmojo_forge.fetch.url import is_loopback, redacted, scheme_of

_KEYS = ("index-url", "extra-index-url", "trusted-host", "no-index", "cert")
_TRUE = frozenset({"1", "yes", "true", "on", "y", "t"})


@dataclass(frozen=True, slots=True)
class PipSettings:
    """The indexes, the main one first, and the certificates they are checked with (empty: the machine's)."""

    indexes: tuple[str, ...]
    ca_bundle: str = ""


def read_pip_settings(settings: FetchSettings) -> PipSettings:
    """What pip would use here; raises FetchError where it would use no index at all."""
    values: dict[str, str] = {}
    if settings.environment.get("PIP_CONFIG_FILE") != os.devnull:
        for path in _configuration_files(settings):
            values.update(_read(path))
    for key in _KEYS:
        variable = settings.environment.get("PIP_" + key.upper().replace("-", "_"))
        if variable:
            values[key] = variable
    if values.get("no-index", "").lower() in _TRUE:
        raise FetchError(
            "read pip's configuration: it forbids every index (no-index)",
            detail="Allow an index for this command: PIP_NO_INDEX=0, and PIP_INDEX_URL where it is not the default.",
            reason="pypi-no-index",
        )
    indexes = [values.get("index-url") or PYPI_SIMPLE_ENDPOINT, *values.get("extra-index-url", "").split()]
    for index in indexes:
        _check_secure(index, values.get("trusted-host", "").split())
    return PipSettings(tuple(dict.fromkeys(indexes)), values.get("cert", ""))


def _configuration_files(settings: FetchSettings) -> Iterator[Path]:
    environment = settings.environment
    for folder in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield settings.machine / folder.lstrip("/") / "pip" / "pip.conf"
    yield settings.machine / "etc" / "pip.conf"
    yield home_of(environment, "HOME", "").joinpath(".pip", "pip.conf")
    yield home_of(environment, "XDG_CONFIG_HOME", ".config") / "pip" / "pip.conf"
    yield Path(environment.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf"
    if environment.get("PIP_CONFIG_FILE"):
        yield Path(environment["PIP_CONFIG_FILE"])


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise FetchError(
            f"read {path}: {type(error).__name__}",
            detail="pip cannot read it either: mend the file, or set PIP_CONFIG_FILE=/dev/null.",
            reason="pip-configuration",
        ) from error
    values: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            values.update({key: value for key, value in parser.items(section) if key in _KEYS})
    return values


def _check_secure(index: str, trusted: list[str]) -> None:
    scheme = scheme_of(index)
    parts = urlsplit(index)
    names = {parts.hostname or "", parts.netloc.rpartition("@")[2]}
    if scheme in {"https", "file"} or (scheme == "http" and (is_loopback(index) or names & set(trusted))):
        return
    raise FetchError(
        f"read pip's configuration: the index {redacted(index)} is not secure",
        detail="Use https, or name the host in pip's trusted-host setting.",
        reason="pypi-insecure-index",
    )
