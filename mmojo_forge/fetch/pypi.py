"""Python projects: from a locator to the file's URL and digest, through the Simple API.

Only the index is read: no metadata is unpacked, nothing is resolved, no build backend is run.

pip's own configuration: which indexes it uses on this machine.

As pip does it: files of the machine, the user and the environment, then PIP_CONFIG_FILE, then PIP_* variables; in a
file, [download] overrides [global]. `find-links` folders are not read: their files have no digests to check.
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


_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_STRONG = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file as an index lists it; `expected` holds the strong digests it gives, and the size if it does."""

    url: str
    expected: Expected


class PypiIndexes:
    """The indexes that pip is configured with, in pip's order."""

    def __init__(self, client: HttpClient, pip: PipSettings) -> None:
        self.client = client.with_certificates(pip.ca_bundle) if pip.ca_bundle else client
        self._indexes = pip.indexes

    def find(self, locator: PypiLocator) -> IndexFile:
        """The first index's entry for the file; raises FetchError (`not-found`, `pypi-no-digest`, …)."""
        failures = []
        for found in self._entries(locator):
            if isinstance(found, UrlFailure):
                failures.append(found)
                if found.kind is not FailureKind.GONE:
                    break
            elif not found.expected.digests:
                raise FetchError(
                    f"resolve {locator}: the index gives no sha256 for it",
                    detail="Without one the download could not be checked; use an index that lists digests.",
                    reason="pypi-no-digest",
                )
            else:
                return found
        raise error_of(str(locator), failures)

    def candidates(self, locator: PypiLocator, sha256: str) -> Iterator[Candidate]:
        """URLs of the file, one index after the other; entries that announce another sha256 are failures."""
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
        if scheme_of(url) == "file":
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
