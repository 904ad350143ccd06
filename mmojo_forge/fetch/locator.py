"""Locators say where forge looks for a source, as text with a grammar (README.md) and as values.

`parse(str(locator)) == locator` for every locator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from mmojo_forge.fetch.failure import FetchError

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
_POOL_PATH = re.compile(r"pool(?:/[A-Za-z0-9][A-Za-z0-9._+~:-]*)+")
_NPM_NAME = re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*")
_NPM_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_URL_TEXT = re.compile(r"[!-~]+")


def _invalid(text: str, why: str) -> FetchError:
    return FetchError(
        f"read locator {text[:200]!r}: {why}",
        detail="The grammar is in mmojo_forge/fetch/README.md.",
        reason="locator-invalid",
    )


@dataclass(frozen=True, slots=True)
class PypiLocator:
    """One file of a release of a Python project. The file name is known to have this project and version."""

    project: str
    version: str
    file: str

    def __post_init__(self) -> None:
        if not _PROJECT.fullmatch(self.project) or not _FILE.fullmatch(self.file):
            raise _invalid(str(self), "not a project or file name")
        try:
            project, version = _named_by(self.file)
            agrees = (project, version) == (canonicalize_name(self.project), Version(self.version))
        except (InvalidVersion, InvalidWheelFilename, InvalidSdistFilename) as error:
            raise _invalid(str(self), str(error)) from error
        if not agrees:
            raise _invalid(str(self), f"the file belongs to {project} {version}")

    def __str__(self) -> str:
        return f"pypi:{self.project}=={self.version}/{self.file}"


class Archive(StrEnum):
    """Debian's archives; the values are the schemes of locators."""

    DEBIAN = "debian"
    SECURITY = "debian-security"


@dataclass(frozen=True, slots=True)
class DebianLocator:
    """One file in the pool of one of Debian's archives."""

    archive: Archive
    path: str

    def __post_init__(self) -> None:
        if not _POOL_PATH.fullmatch(self.path):
            raise _invalid(str(self), "not a path below pool/")

    @property
    def file(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.archive}:{self.path}"


@dataclass(frozen=True, slots=True)
class NpmLocator:
    """The tarball of one version of an npm package; the package may have a scope."""

    package: str
    version: str

    def __post_init__(self) -> None:
        if not _NPM_NAME.fullmatch(self.package) or not _NPM_VERSION.fullmatch(self.version):
            raise _invalid(str(self), "not a package name and an exact version")

    @property
    def scope(self) -> str:
        """`@scope`, or empty text."""
        return self.package.partition("/")[0] if self.package.startswith("@") else ""

    def __str__(self) -> str:
        return f"npm:{self.package}@{self.version}"


@dataclass(frozen=True, slots=True)
class UrlLocator:
    """A file at a URL. FetchSettings says which schemes are allowed."""

    url: str

    def __post_init__(self) -> None:
        parts = _split(self.url, str(self))
        if parts.fragment:
            raise _invalid(str(self), "a URL of a file has no fragment")

    def __str__(self) -> str:
        return f"url:{self.url}"


@dataclass(frozen=True, slots=True)
class GitLocator:
    """The files of one commit of a git repository."""

    url: str
    commit: str

    def __post_init__(self) -> None:
        if _split(self.url, str(self)).fragment or not _COMMIT.fullmatch(self.commit):
            raise _invalid(str(self), "not a URL and a commit of 40 hexadecimal digits")

    def __str__(self) -> str:
        return f"git:{self.url}#{self.commit}"


@dataclass(frozen=True, slots=True)
class FileLocator:
    """A file that forge cannot download. The user adds it by hand, and its hash identifies it."""

    name: str

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.name):
            raise _invalid(str(self), "not the name of a file")

    def __str__(self) -> str:
        return f"file:{self.name}"


Locator = PypiLocator | DebianLocator | NpmLocator | UrlLocator | GitLocator | FileLocator


def parse(text: str) -> Locator:
    """The locator that `text` spells; raises FetchError (reason `locator-invalid`)."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise _invalid(text, "no scheme")
    if scheme == "pypi":
        return _parse_pypi(text, rest)
    if scheme in {Archive.DEBIAN, Archive.SECURITY}:
        return DebianLocator(Archive(scheme), rest)
    if scheme == "npm":
        package, _, version = rest.rpartition("@")
        return NpmLocator(package, version)
    if scheme == "url":
        return UrlLocator(rest)
    if scheme == "git":
        url, _, commit = rest.rpartition("#")
        return GitLocator(url, commit)
    if scheme == "file":
        return FileLocator(rest)
    raise _invalid(text, f"unknown kind {scheme!r} (pypi, debian, debian-security, npm, url, git, file)")


def _parse_pypi(text: str, rest: str) -> PypiLocator:
    project, equals, release = rest.partition("==")
    version, slash, file = release.partition("/")
    if not equals or not slash:
        raise _invalid(text, "not PROJECT==VERSION/FILENAME")
    return PypiLocator(project, version, file)


def _named_by(file: str) -> tuple[str, Version]:
    if file.endswith(".whl"):
        name, version, _, _ = parse_wheel_filename(file)
        return name, version
    return parse_sdist_filename(file)


def _split(url: str, text: str) -> SplitResult:
    if not _URL_TEXT.fullmatch(url):
        raise _invalid(text, "a URL must be printable ASCII without spaces")
    try:
        parts = urlsplit(url)
        has_credentials = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise _invalid(text, str(error)) from error
    if has_credentials:
        raise FetchError(
            "read locator: the URL contains a user or password",
            detail="forge.lock is shared, so it must not hold credentials. "
            "Let the client log in by its own configuration (~/.netrc).",
            reason="locator-credentials",
        )
    if not parts.scheme or not (parts.netloc or parts.scheme == "file") or not parts.path.strip("/"):
        raise _invalid(text, "not an absolute URL of a file")
    return parts
