"""Package URLs (ECMA-427): the identifiers that other tools use for a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from packaging.utils import canonicalize_name

from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.locator import DebianLocator, FileLocator, GitLocator, NpmLocator, PypiLocator, parse
from mmojo_forge.model.derivation import Download, Source

_BINARY = re.compile(r"[^_]+_[^_]+_([a-z0-9-]+)\.deb")


def project_of(source: Source | Download) -> str:
    """The project name of a source in its package index; for other sources, the name of its file."""
    try:
        locator = parse(source.locator)
    except FetchError:
        return source.name
    if isinstance(locator, PypiLocator):
        return locator.project
    return locator.package if isinstance(locator, NpmLocator) else source.name


def purl_of(source: Source | Download, version: str = "", *, suite: str = "") -> str:
    """The package URL of a pinned source. A source without a package index gets `pkg:generic` and facts of the pin."""
    try:
        locator = parse(source.locator)
    except FetchError:
        return generic(source.name, version, checksum=f"sha256:{source.sha256}")
    if isinstance(locator, PypiLocator):
        return _write("pypi", canonicalize_name(locator.project), locator.version)
    if isinstance(locator, NpmLocator):
        return _write("npm", locator.package, locator.version)
    if isinstance(locator, GitLocator):
        return generic(source.name, locator.commit, vcs_url=f"git+{locator.url}@{locator.commit}")
    binary = _BINARY.fullmatch(locator.file) if isinstance(locator, DebianLocator) else None
    if binary:
        return _write("deb", f"debian/{source.name}", version, arch=binary[1], distro=suite)
    where = "" if isinstance(locator, DebianLocator | FileLocator) else locator.url
    return generic(source.name, version, checksum=f"sha256:{source.sha256}", download_url=where)


def generic(name: str, version: str, **qualifiers: str) -> str:
    """The package URL of something that is in no package index."""
    return _write("generic", name, version, **qualifiers)


def _write(kind: str, name: str, version: str, **qualifiers: str) -> str:
    at = f"@{quote(version, safe=':')}" if version else ""
    return f"pkg:{kind}/{quote(name, safe='/')}{at}{_query(qualifiers)}"


def _query(qualifiers: Mapping[str, str]) -> str:
    pairs = [f"{key}={quote(value, safe='/:')}" for key, value in sorted(qualifiers.items()) if value]
    return f"?{'&'.join(pairs)}" if pairs else ""
