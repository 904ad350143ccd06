"""package-lock.json: the packages that a project needs on our platform, and the digest of each tarball.

The file is untrusted. forge uses its paths, names, versions and hashes. It ignores the URLs, because each machine
chooses its own registry.

    packages ──filter: os, cpu, libc──▶ for this platform ──reach from the root──▶ what npm would install
                                                              (but no edge to a name that is excluded)

The format is npm's lockfileVersion 3: https://docs.npmjs.com/cli/configuring-npm/package-lock-json. Its resolution
is Node's: a dependency is looked for in the node_modules of the package that wants it, and then further out.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.locator import NpmLocator
from mmojo_forge.model.node_modules import BIN_PATTERN, FOLDER, PATH_PATTERN

VERSION = 3
# Bounds for an untrusted file: a lock of a large project has a few megabytes and some thousand packages.
MAX_BYTES = 64 << 20
MAX_PACKAGES = 50_000
_MAX_PATH = 1024
_MAX_LICENCE = 200
_OS, _CPU, _LIBC = "linux", "x64", "glibc"
_PATH = re.compile(PATH_PATTERN)
_BIN = re.compile(BIN_PATTERN)
_SHA512 = re.compile(r"sha512-[A-Za-z0-9+/]{86}==")
_INSIDE = f"/{FOLDER}/"


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package to install at `path`.

    Callers may assume that `integrity` is one sha512, that the licence is printable, and that `path` and the files in
    `bins` do not leave their folder.
    """

    path: str
    locator: NpmLocator
    integrity: str
    licence: str = ""
    bins: Mapping[str, str] = field(default_factory=dict)


def read_package_lock(text: str, what: str, exclude: Sequence[str] = ()) -> list[LockedPackage]:
    """The packages to install, sorted by path. `exclude` has patterns of package names to skip.

    Raises FetchError (reasons `npm-lock-…`, `locator-invalid`); `what` names the file in messages.
    """
    rows = _parse(text, what).packages
    return [_package(path, rows[path], what) for path in sorted(_reachable(rows, what, exclude))]


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _one_licence(value: Any) -> str:
    """The licence as one line, or empty text. Old packages have objects or lists here, and any value may occur."""
    if isinstance(value, dict):
        value = value.get("type")
    return value if isinstance(value, str) and len(value) <= _MAX_LICENCE and _is_printable(value) else ""


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _inside(path: str) -> str:
    """The path of a file in the package, without `.` and empty parts; raises ValueError if it leaves the package."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or not parts or not _is_printable(path) or len(path) > _MAX_PATH:
        raise ValueError("not a file of the package")
    return "/".join(parts)


def _command(name: str) -> str:
    if not _BIN.fullmatch(name):
        raise ValueError("not the name of a command")
    return name


_Words = Annotated[list[str], BeforeValidator(_words)]
_Ranges = dict[str, str]


class _Peer(BaseModel):
    optional: bool = False


class _Entry(BaseModel):
    """One entry of `packages`. Fields that forge does not use are allowed and ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    name: str = ""
    version: str = ""
    integrity: str = ""
    link: bool = False
    bundled: bool = Field(False, alias="inBundle")
    optional: bool = False
    dev_optional: bool = Field(False, alias="devOptional")
    os: _Words = []
    cpu: _Words = []
    libc: _Words = []
    dependencies: _Ranges = {}
    dev_dependencies: _Ranges = Field({}, alias="devDependencies")
    optional_dependencies: _Ranges = Field({}, alias="optionalDependencies")
    peer_dependencies: _Ranges = Field({}, alias="peerDependencies")
    peers: dict[str, _Peer] = Field({}, alias="peerDependenciesMeta")
    licence: Annotated[str, BeforeValidator(_one_licence)] = Field("", alias="license")
    bin: dict[Annotated[str, AfterValidator(_command)], Annotated[str, AfterValidator(_inside)]] = {}

    def fits(self) -> bool:
        """Whether the package runs on our platform."""
        return _allows(self.os, _OS) and _allows(self.cpu, _CPU) and _allows(self.libc, _LIBC)


class _Document(BaseModel):
    packages: dict[str, _Entry]


def _allows(words: Iterable[str], ours: str) -> bool:
    """Whether the list allows `ours`, by npm's rule: it is empty, or lists `ours` or `any`; `!word` excludes a word."""
    refused = {word[1:] for word in words if word.startswith("!")}
    wanted = {word for word in words if not word.startswith("!")}
    return ours not in refused and (not wanted or ours in wanted or "any" in wanted)


def _parse(text: str, what: str) -> _Document:
    if len(text) > MAX_BYTES:
        raise _error(what, f"more than {MAX_BYTES} characters", "npm-lock-too-large")
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _error(what, f"not JSON: {error}", "npm-lock-malformed") from error
    version = raw.get("lockfileVersion") if isinstance(raw, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise _error(
            what,
            f"lockfileVersion {version!r} is not {VERSION}",
            "npm-lock-version",
            "Write the file again with npm 7 or later: npm install --package-lock-only --lockfile-version 3",
        )
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _error(what, f"{place}: {first['msg']}", "npm-lock-malformed") from error
    if len(document.packages) > MAX_PACKAGES:
        raise _error(what, f"more than {MAX_PACKAGES} packages", "npm-lock-too-large")
    if "" not in document.packages:
        raise _error(what, "no entry for the project itself", "npm-lock-malformed")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of the pairs; raises ValueError for a repeated key. Parsers disagree on which one counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"repeated key {key[:100]!r}")
        found[key] = value
    return found


def _reachable(rows: Mapping[str, _Entry], what: str, exclude: Sequence[str]) -> set[str]:
    """The paths of all packages that the project needs, directly or not, and that have their own tarball."""
    found: set[str] = set()
    waiting = [""]
    while waiting:
        user = waiting.pop()
        for name, required in _wanted_by(rows[user], is_root=not user):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
                continue
            path = _find(rows, user, name)
            if path is None:
                if required:
                    raise _error(
                        what,
                        f"{user or 'the project'} needs {name}, which the file does not list",
                        "npm-lock-incomplete",
                    )
                continue
            row = rows[path]
            if path in found or row.link:
                continue
            if row.fits():
                found.add(path)
                waiting.append(path)
            elif not (row.optional or row.dev_optional):
                raise _error(
                    what, f"{path} is required, but does not support {_OS} {_CPU} {_LIBC}", "npm-lock-platform"
                )
    # A bundled package is part of another package's tarball.
    return {path for path in found if not rows[path].bundled}


def _wanted_by(row: _Entry, *, is_root: bool) -> Iterator[tuple[str, bool]]:
    """The names that a package depends on, and whether each is required."""
    for name in row.dependencies:
        yield name, name not in row.optional_dependencies
    if is_root:
        yield from ((name, True) for name in row.dev_dependencies)
    yield from ((name, False) for name in row.optional_dependencies)
    # A missing peer is not an error: npm skips peers with `legacy-peer-deps`.
    yield from ((name, False) for name in row.peer_dependencies if not row.peers.get(name, _Peer()).optional)


def _find(rows: Mapping[str, _Entry], user: str, name: str) -> str | None:
    folder = user
    while True:
        path = f"{folder}/{FOLDER}/{name}" if folder else f"{FOLDER}/{name}"
        if path in rows:
            return path
        if not folder:
            return None
        folder = folder.rpartition(_INSIDE)[0] if _INSIDE in folder else ""


def _package(path: str, row: _Entry, what: str) -> LockedPackage:
    if not _PATH.fullmatch(path) or len(path) > _MAX_PATH or path.count(_INSIDE) > 40:
        raise _error(what, f"{path[:200]!r} is not a valid path for a package", "npm-lock-bad-path")
    integrity = next((token for token in row.integrity.split() if _SHA512.fullmatch(token)), "")
    if not integrity:
        raise _error(
            what,
            f"{path} has no sha512",
            "npm-lock-no-integrity",
            "forge needs one to verify the download. Packages from git, from folders and from old locks have none. "
            "Use a published version, and write the file again with npm install.",
        )
    locator = NpmLocator(row.name or path.rpartition(f"{FOLDER}/")[2], row.version)
    return LockedPackage(path, locator, integrity, row.licence, row.bin)


def _error(what: str, cause: str, reason: str, detail: str = "") -> FetchError:
    return FetchError(f"read {what}: {cause}", detail=detail, reason=reason)
