"""Finds the mirrors of Debian's own archives that this machine uses.

A machine may also use other vendors' archives, whose packages could have higher versions. An archive counts only if
its Release file has `Origin: Debian` and the label `Debian` or `Debian-Security`. DebianMirrors looks in this order:

1. FORGE_DEBIAN_MIRROR and FORGE_DEBIAN_SECURITY_MIRROR. They come first, but do not exclude the others.
2. apt's sources that are Debian's. It reads Release files from apt's lists, else from the archive.
3. If apt has none: python-apt's template for Debian, else debootstrap's default.
4. If only one of the two archives is known, it looks for the other beside it (`…/debian` and `…/debian-security`).

`paragraphs` reads deb822(5), the format of Debian's control files: Release, Packages, Sources and `.sources` files.
`read_apt_sources` reads apt's source lists in both formats, deb822 and one line per source (sources.list(5)).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmojo_forge.fetch.failure import FetchError, error_of
from mmojo_forge.fetch.locator import Archive
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import UrlFailure
from mmojo_forge.net.stream import read_head
from mmojo_forge.net.url import path_of, scheme_of, with_slash

_ONE_LINE = re.compile(r"(?P<type>deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s.*)?")
_PART_NAME = re.compile(r"[A-Za-z0-9_.-]+\.(?:list|sources)")
_FETCHABLE = frozenset({"http", "https", "file"})
_FALSE = frozenset({"no", "false", "without", "off", "disable"})

Paragraph = dict[str, str]
"""Fields by lower-case name. A value has its continuation lines, stripped, after the first line."""


def paragraphs(lines: Iterable[str]) -> Iterator[Paragraph]:
    """The paragraphs of a deb822 file, one at a time. Lines that start with `#` are comments."""
    current: Paragraph = {}
    field = ""
    for line in lines:
        if line.startswith("#"):
            continue
        if not line.strip():
            if current:
                yield current
            current, field = {}, ""
        elif line[0] in " \t":
            if field:
                current[field] += "\n" + line.strip()
        else:
            name, colon, value = line.partition(":")
            field = name.strip().lower() if colon else ""
            if field:
                current[field] = value.strip()
    if current:
        yield current


@dataclass(frozen=True, slots=True)
class AptSource:
    """One archive and one of its suites. The base URL ends in a slash."""

    base: str
    suite: str

    @property
    def release_url(self) -> str:
        """The URL of the signed Release file."""
        return f"{self.base}dists/{self.suite}/InRelease"


def read_apt_sources(machine: Path = Path("/")) -> list[AptSource]:
    """All enabled sources with a URL that forge can fetch, in apt's order, without duplicates."""
    found: dict[AptSource, None] = {}
    for path in _files(machine / "etc" / "apt"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        entries = _parse_sources(text) if path.suffix == ".sources" else _parse_list(text)
        for uri, suite in entries:
            for base in _expand(uri, machine):
                if scheme_of(base) in _FETCHABLE and "$(" not in base:
                    found[AptSource(with_slash(base), suite)] = None
    return list(found)


def list_file_name(url: str) -> str:
    """The name of the file in apt's lists that apt downloaded from `url` (apt's URItoFileName)."""
    rest = url.partition(":")[2]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = host.rpartition("@")[2] + slash + path
    quoted = "".join(f"%{ord(sign):02x}" if sign in '\\|{}[]<>"^~_=!@#$%^&*' else sign for sign in rest)
    return quoted.replace("/", "_")


def _files(folder: Path) -> Iterator[Path]:
    yield folder / "sources.list"
    try:
        parts = sorted((folder / "sources.list.d").iterdir())
    except OSError:
        return
    yield from (path for path in parts if _PART_NAME.fullmatch(path.name))


def _parse_list(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        found = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if found and not found["suite"].endswith("/"):
            yield found["uri"], found["suite"]


def _parse_sources(text: str) -> Iterator[tuple[str, str]]:
    for paragraph in paragraphs(text.splitlines()):
        if paragraph.get("enabled", "yes").lower() not in _FALSE:
            yield from _uris_and_suites(paragraph)


def _uris_and_suites(paragraph: Paragraph) -> Iterator[tuple[str, str]]:
    for uri in paragraph.get("uris", "").split():
        for suite in paragraph.get("suites", "").split():
            if not suite.endswith("/"):
                yield uri, suite


def _expand(uri: str, machine: Path) -> Iterator[str]:
    """The URLs of an entry. `mirror+file:` (used by Debian's cloud images) names a file with one URL per line."""
    if uri.startswith("mirror+file:"):
        try:
            lines = (machine / str(path_of(uri)).lstrip("/")).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        yield from (line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
    elif uri.startswith("copy:"):
        yield "file:" + uri.removeprefix("copy:")
    else:
        yield uri


VARIABLES: Mapping[Archive, str] = MappingProxyType(
    {
        Archive.DEBIAN: "FORGE_DEBIAN_MIRROR",
        Archive.SECURITY: "FORGE_DEBIAN_SECURITY_MIRROR",
    }
)
_LABELS = MappingProxyType({"Debian": Archive.DEBIAN, "Debian-Security": Archive.SECURITY})
_SUITE_SUFFIX = MappingProxyType({Archive.DEBIAN: "", Archive.SECURITY: "-security"})
_HEAD = 4096  # bytes; Origin and Label are among the first fields of a Release file
_DEBOOTSTRAP = re.compile(r"^\s*(?:default_mirror\s+|DEF_MIRROR=)[\"']?(https?://[^\s\"']+)", re.MULTILINE)


class DebianMirrors:
    """The base URLs of each archive, looked up on the first request."""

    def __init__(self, settings: FetchSettings, client: HttpClient) -> None:
        self._settings = settings
        self._client = client
        self._guard = threading.Lock()
        self._known: dict[Archive, tuple[str, ...]] = {}
        self._failures: list[UrlFailure] = []

    def bases(self, archive: Archive) -> tuple[str, ...]:
        """All base URLs of the archive, best first, never empty; raises FetchError (`debian-mirror-unknown`)."""
        with self._guard:
            if not self._known:
                self._known = self._find_all()
            bases = self._known.get(archive, ())
            if not bases:
                # Look again next time: the network may be back by then.
                self._known = {}
        if not bases and self._failures:
            raise error_of(f"{archive} Release file", self._failures)
        if not bases:
            raise FetchError(
                f"find a mirror of {archive}: no configuration on this machine names one",
                detail=(
                    f"Set {VARIABLES[archive]} to the base URL of a mirror (the folder that has dists/ and pool/), "
                    "or install debootstrap, which knows a default: apt-get install debootstrap"
                ),
                reason="debian-mirror-unknown",
            )
        return bases

    def _find_all(self) -> dict[Archive, tuple[str, ...]]:
        self._failures.clear()
        named = self._named_by_user()
        found = self._of_apt() or self._of_templates()
        merged = {archive: (*named.get(archive, ()), *found.get(archive, ())) for archive in Archive}
        for archive, sibling in ((Archive.DEBIAN, Archive.SECURITY), (Archive.SECURITY, Archive.DEBIAN)):
            if not merged[archive]:
                merged[archive] = tuple(self._beside(merged[sibling], archive))
        return {archive: tuple(dict.fromkeys(bases)) for archive, bases in merged.items()}

    def _named_by_user(self) -> dict[Archive, tuple[str, ...]]:
        named: dict[Archive, tuple[str, ...]] = {}
        for archive, variable in VARIABLES.items():
            value = self._settings.environment.get(variable, "").strip()
            if not value:
                continue
            if scheme_of(value) not in {"http", "https", "file"}:
                raise FetchError(f"read {variable}: not an http, https or file URL", reason="debian-mirror-invalid")
            named[archive] = (with_slash(value),)
        return named

    def _of_apt(self) -> dict[Archive, tuple[str, ...]]:
        found: dict[Archive, tuple[str, ...]] = {}
        for source in read_apt_sources(self._settings.machine):
            archive = self._archive_of(source)
            if archive is not None:
                found[archive] = (*found.get(archive, ()), source.base)
        return found

    def _archive_of(self, source: AptSource) -> Archive | None:
        lists = self._settings.machine / "var" / "lib" / "apt" / "lists"
        for name in ("InRelease", "Release"):
            try:
                with (lists / list_file_name(f"{source.base}dists/{source.suite}/{name}")).open("rb") as file:
                    return archive_of_release(file.read(_HEAD))
            except OSError:
                continue
        try:
            return archive_of_release(read_head(self._client, source.release_url, _HEAD))
        except UrlFailure as failure:
            # Another vendor's server may be down or require a login. That matters only if no mirror is found at all.
            self._failures.append(failure)
            return None

    def _of_templates(self) -> dict[Archive, tuple[str, ...]]:
        share = self._settings.machine / "usr" / "share"
        suite = self._settings.debian_suites[0]
        candidates = [*_of_python_apt(share / "python-apt" / "templates" / "Debian.info", suite)]
        if not candidates:
            defaults = (AptSource(base, suite) for base in _of_debootstrap(self._settings.machine / "usr", suite))
            candidates = [source for source in defaults if self._archive_of(source) is Archive.DEBIAN]
        found: dict[Archive, tuple[str, ...]] = {}
        for source in candidates:
            archive = Archive.SECURITY if source.suite.endswith("-security") else Archive.DEBIAN
            found.setdefault(archive, (source.base,))
        return found

    def _beside(self, bases: tuple[str, ...], archive: Archive) -> Iterator[str]:
        suite = self._settings.debian_suites[0] + _SUITE_SUFFIX[archive]
        for base in bases:
            parent, _, name = base.rstrip("/").rpartition("/")
            if name not in set(Archive):
                continue
            source = AptSource(f"{parent}/{archive}/", suite)
            if self._archive_of(source) is archive:
                yield source.base


def archive_of_release(head: bytes) -> Archive | None:
    """The archive of a Release or InRelease file that begins with `head`, or None if it is not Debian's."""
    for paragraph in paragraphs(head.decode("utf-8", "replace").splitlines()):
        if "origin" in paragraph:
            return _LABELS.get(paragraph.get("label", "")) if paragraph["origin"] == "Debian" else None
    return None


def _of_python_apt(path: Path, suite: str) -> Iterator[AptSource]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for paragraph in paragraphs(text.splitlines()):
        named = paragraph.get("suite", "")
        base = paragraph.get("baseuri", "")
        if base and named in {"{series}", "{series}-security"}:
            yield AptSource(with_slash(base), named.replace("{series}", suite))


def _of_debootstrap(usr: Path, suite: str) -> list[str]:
    """The default mirror in debootstrap's script for the suite, or in the program. It may not be Debian's own."""
    scripts = usr / "share" / "debootstrap" / "scripts"
    for path in (scripts / suite, scripts / "sid", usr / "sbin" / "debootstrap"):
        try:
            found = _DEBOOTSTRAP.findall(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found:
            return [with_slash(found[0])]
    return []
