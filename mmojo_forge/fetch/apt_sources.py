"""apt's source lists: which archives this machine is configured to use, in both formats apt knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.fetch.control import Paragraph, paragraphs
from mmojo_forge.fetch.url import path_of, scheme_of, with_slash

_ONE_LINE = re.compile(r"(?P<type>deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s.*)?")
_PART_NAME = re.compile(r"[A-Za-z0-9_.-]+\.(?:list|sources)")
_FETCHABLE = frozenset({"http", "https", "file"})
_FALSE = frozenset({"no", "false", "without", "off", "disable"})


@dataclass(frozen=True, slots=True)
class AptSource:
    """One archive and one suite of it. The base URL ends in a slash."""

    base: str
    suite: str

    @property
    def release_url(self) -> str:
        """Where the signed Release file lies."""
        return f"{self.base}dists/{self.suite}/InRelease"


def read_apt_sources(machine: Path = Path("/")) -> list[AptSource]:
    """All sources that are enabled and can be fetched, in apt's order, each once."""
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
    """The name under which apt keeps what it downloaded from `url` (apt's URItoFileName)."""
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
    """The URLs an entry stands for: `mirror+file:` (Debian's cloud images) names a file with one per line."""
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
