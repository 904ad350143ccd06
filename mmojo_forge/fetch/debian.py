"""Debian's archives: the closure of a list of packages, and lookups of single files in the signed indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from mmojo_forge.fetch import apt_get
from mmojo_forge.fetch.apt_get import AptFailed, AptRoom
from mmojo_forge.fetch.debian_mirrors import DebianMirrors, Paragraph, list_file_name, paragraphs
from mmojo_forge.fetch.download import Expected
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.locator import Archive, DebianLocator
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.digest import Sha256, is_hex_digest
from mmojo_forge.net.url import redacted_text

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
_ARCHITECTURE = re.compile(r"[a-z][a-z0-9-]*")
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) ?\S*")
_BINARY = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<architecture>[^_]+)\.deb")
_SOURCE_CHECKSUM = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<size>\d+) (?P<file>\S+)")


@dataclass(frozen=True, slots=True, order=True)
class DebianPackage:
    """One package of a closure, as the signed index describes it. `size` in bytes."""

    name: str
    version: str
    architecture: str
    locator: DebianLocator
    sha256: Sha256
    size: int


class DebianArchives:
    """Queries to the indexes of Debian's archives. apt answers them in a separate folder (apt_get.py)."""

    def __init__(self, settings: FetchSettings, mirrors: DebianMirrors) -> None:
        self._settings = settings
        self._mirrors = mirrors

    def closure(self, suite: str, architecture: str, packages: tuple[str, ...]) -> tuple[DebianPackage, ...]:
        """The packages with all their dependencies, but no recommendations, sorted by name; raises FetchError."""
        apt_get.require_names(packages, _PACKAGE, "package name")
        if not packages:
            return ()
        with self._room("deb", suite, architecture) as room:
            # apt chooses between alternatives by the order of its arguments, so the arguments are sorted.
            printed = self._install(room, sorted(set(packages)))
            wanted = {self._listed(line) for line in printed.splitlines() if line.startswith("'")}
            found = dict(self._records_of(room, wanted))
        missing = wanted - found.keys()
        if missing:
            raise FetchError(f"resolve {min(map(str, missing))}: no index lists it", reason="debian-malformed")
        return tuple(sorted(_package(locator, record) for locator, record in found.items()))

    def _records_of(self, room: AptRoom, wanted: Set[DebianLocator]) -> Iterator[tuple[DebianLocator, Paragraph]]:
        prefixes = {archive: self._list_prefix(archive) for archive in Archive}
        paths = {locator.path for locator in wanted}
        for name, record in _records(room, "_Packages"):
            path = record.get("filename", "")
            if path not in paths:
                continue
            for archive, prefix in prefixes.items():
                if name.startswith(prefix) and DebianLocator(archive, path) in wanted:
                    yield DebianLocator(archive, path), record

    def describe(self, locator: DebianLocator) -> Expected:
        """SHA-256 and size of a file in the pool, from a signed index; raises FetchError (`not-found`)."""
        binary = _BINARY.fullmatch(locator.file)
        architecture = binary["architecture"] if binary and binary["architecture"] != "all" else "amd64"
        for suite in self._settings.debian_suites:
            with self._room("deb" if binary else "deb-src", suite, architecture) as room:
                for path, expected in _pool_files(room, self._list_prefix(locator.archive), sources=not binary):
                    if path == locator.path:
                        return expected
        raise FetchError(
            f"resolve {locator}: no index of {', '.join(self._settings.debian_suites)} lists it",
            detail="A newer version may have replaced it. Declare that version's file, or declare this one as a Url.",
            reason="not-found",
        )

    def find_source(self, suite: str, file: str) -> DebianLocator:
        """Where the pool keeps a file of a source package (`openssl_3.0.22.orig.tar.gz`); raises FetchError."""
        with self._room("deb-src", suite, "amd64") as room:
            for archive in Archive:
                for path, _ in _pool_files(room, self._list_prefix(archive), sources=True):
                    if path.rpartition("/")[2] == file:
                        return DebianLocator(archive, path)
        raise FetchError(f"resolve {file}: no source package of {suite} has this file", reason="not-found")

    @contextmanager
    def _room(self, kind: str, suite: str, architecture: str) -> Iterator[AptRoom]:
        apt_get.require_names([suite], _SUITE, "suite")
        apt_get.require_names([architecture], _ARCHITECTURE, "architecture")
        with apt_get.apt_room(self._settings, self._sources(kind, suite, architecture), architecture) as room:
            yield room

    def _sources(self, kind: str, suite: str, architecture: str) -> list[str]:
        pockets = ((Archive.DEBIAN, f"{suite} {suite}-updates"), (Archive.SECURITY, f"{suite}-security"))
        return [
            f"Types: {kind}\nURIs: {self._mirrors.bases(archive)[0]}\nSuites: {suites}\n"
            f"Components: main\nArchitectures: {architecture}\n"
            for archive, suites in pockets
        ]

    def _list_prefix(self, archive: Archive) -> str:
        return list_file_name(self._mirrors.bases(archive)[0])

    def _install(self, room: AptRoom, packages: list[str]) -> str:
        try:
            return room.run("apt-get", "install", "-qq", "--print-uris", "--no-remove", *packages)
        except AptFailed as failure:
            unknown = "Unable to locate package" in str(failure) or "has no installation candidate" in str(failure)
            raise FetchError(
                f"resolve {', '.join(packages)}: apt-get finds no solution",
                detail=str(failure),
                reason="debian-package-unknown" if unknown else "debian-unsatisfiable",
            ) from failure

    def _listed(self, line: str) -> DebianLocator:
        found = _URI_LINE.fullmatch(line.strip())
        for archive in Archive if found else ():
            base = self._mirrors.bases(archive)[0]
            if found and found["uri"].startswith(base):
                return DebianLocator(archive, unquote(found["uri"].removeprefix(base)))
        raise FetchError(f"resolve Debian packages: apt-get printed {redacted_text(line)!r}", reason="debian-malformed")


def _records(room: AptRoom, suffix: str, prefix: str = "") -> Iterator[tuple[str, Paragraph]]:
    """The paragraphs of the indexes in apt's folder, each with the name of its list file."""
    for path in sorted(room.lists.iterdir()):
        if path.name.startswith(prefix) and path.name.endswith(suffix):
            with path.open(encoding="utf-8", errors="replace") as file:
                for paragraph in paragraphs(file):
                    yield path.name, paragraph


def _pool_files(room: AptRoom, prefix: str, *, sources: bool) -> Iterator[tuple[str, Expected]]:
    """Every pool file in the indexes of one archive, as (path, expected)."""
    if not sources:
        for _, record in _records(room, "_Packages", prefix):
            yield record.get("filename", ""), _expected(record.get("sha256", ""), record.get("size", ""))
        return
    for _, record in _records(room, "_Sources", prefix):
        for line in record.get("checksums-sha256", "").splitlines():
            found = _SOURCE_CHECKSUM.fullmatch(line)
            if found:
                yield f"{record.get('directory', '')}/{found['file']}", _expected(found["sha256"], found["size"])


def _expected(sha256: str, size: str) -> Expected:
    if not is_hex_digest(sha256) or not size.isdigit():
        raise FetchError("read Debian's indexes: a record has no sha256 or size", reason="debian-malformed")
    return Expected(int(size), {"sha256": sha256})


def _package(locator: DebianLocator, record: Paragraph) -> DebianPackage:
    expected = _expected(record.get("sha256", ""), record.get("size", ""))
    return DebianPackage(
        record.get("package", ""),
        record.get("version", ""),
        record.get("architecture", ""),
        locator,
        Sha256(expected.digests["sha256"]),
        expected.size or 0,
    )
