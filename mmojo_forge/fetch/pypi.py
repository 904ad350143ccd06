"""Python projects: turns a locator into the file's URL and digest, through the Simple API.

`read_pip_settings` finds the indexes that pip uses on this machine, in pip's order: files of the machine, the user and
the environment, then PIP_CONFIG_FILE, then PIP_* variables. In a file, [download] overrides [global]. It ignores
`find-links` folders, because their files have no digests to check.

PypiIndexes looks files up in these indexes. It reads only index pages: it unpacks no metadata, resolves no
dependencies and runs no build backend.
"""

from __future__ import annotations

import configparser
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name
from pypi_simple import PYPI_SIMPLE_ENDPOINT, DistributionPackage, ProjectPage, UnsupportedRepoVersionError

from mmojo_forge.fetch.download import Candidate, Expected
from mmojo_forge.fetch.failure import FetchError, error_of
from mmojo_forge.fetch.locator import PypiLocator
from mmojo_forge.fetch.settings import FetchSettings, home_of
from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.stream import Document, read_document
from mmojo_forge.net.url import is_loopback, redacted, scheme_of, with_slash

_KEYS = ("index-url", "extra-index-url", "trusted-host", "no-index", "cert")
_TRUE = frozenset({"1", "yes", "true", "on", "y", "t"})


@dataclass(frozen=True, slots=True)
class PipSettings:
    """The URLs of the indexes, the main one first, and the CA bundle for them (empty: the machine's certificates)."""

    indexes: tuple[str, ...]
    ca_bundle: str = ""


def read_pip_settings(settings: FetchSettings) -> PipSettings:
    """pip's settings here; raises FetchError (`pypi-no-index`, `pypi-insecure-index`, `pip-configuration`)."""
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
            "read pip's configuration: no-index is set, which forbids every index",
            detail="Allow indexes for this command: set PIP_NO_INDEX=0, and PIP_INDEX_URL if you do not use PyPI.",
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
            detail="pip cannot read it either. Correct the file, or set PIP_CONFIG_FILE=/dev/null to ignore all files.",
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
        detail="Use an https URL, or add the host to pip's trusted-host setting.",
        reason="pypi-insecure-index",
    )


_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_STRONG = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file as an index lists it. `expected` has the strong digests from the index, and the size if it gives one."""

    url: str
    expected: Expected


class PypiIndexes:
    """The indexes in pip's configuration, in pip's order."""

    def __init__(self, client: HttpClient, pip: PipSettings) -> None:
        self.client = client.with_certificates(pip.ca_bundle) if pip.ca_bundle else client
        self._indexes = pip.indexes

    def find(self, locator: PypiLocator) -> IndexFile:
        """The first index's entry for the file; raises FetchError (`not-found`, `pypi-no-digest`, …)."""
        failures = []
        for found in self._entries(locator):
            if isinstance(found, UrlFailure):
                failures.append(found)
                # If this index merely failed, a later one could give another file of the same name.
                if found.kind is not FailureKind.GONE:
                    break
            elif not found.expected.digests:
                raise FetchError(
                    f"resolve {locator}: the index gives no sha256",
                    detail="forge needs one to verify the download. Use an index that lists digests.",
                    reason="pypi-no-digest",
                )
            else:
                return found
        raise error_of(str(locator), failures)

    def candidates(self, locator: PypiLocator, sha256: str) -> Iterator[Candidate]:
        """The file's URL in each index, in turn. An entry with another sha256 becomes a failure."""
        for found in self._entries(locator):
            if isinstance(found, UrlFailure):
                yield found
                continue
            announced = found.expected.digests.get("sha256", sha256)
            if announced == sha256:
                yield found.url
            else:
                yield UrlFailure(
                    found.url, FailureKind.MISMATCH, f"the index says sha256:{announced}, not sha256:{sha256}"
                )

    def _entries(self, locator: PypiLocator) -> Iterator[IndexFile | UrlFailure]:
        for index in self._indexes:
            try:
                yield self._entry(index, locator)
            except UrlFailure as failure:
                yield failure

    def _entry(self, index: str, locator: PypiLocator) -> IndexFile:
        url = with_slash(with_slash(index) + canonicalize_name(locator.project))
        if scheme_of(url) == "file":  # no server adds the name of the page
            url += "index.html"
        document = read_document(self.client, url, accept=_ACCEPT)
        for package in _packages(locator.project, document):
            if package.filename == locator.file:
                digests = {name: value.lower() for name, value in package.digests.items() if name in _STRONG}
                return IndexFile(package.url, Expected(package.size, digests))
        raise UrlFailure(url, FailureKind.GONE, f"the index does not list {locator.file}")


def _packages(project: str, document: Document) -> list[DistributionPackage]:
    try:
        if document.media_type.endswith("json"):
            page = ProjectPage.from_json_data(json.loads(document.body), document.url)
        else:
            page = ProjectPage.from_html(project, document.body, document.url)
    except (ValueError, TypeError, KeyError, UnsupportedRepoVersionError) as error:
        raise UrlFailure(document.url, FailureKind.REFUSED, f"not a page of the Simple API: {error}") from error
    return page.packages
