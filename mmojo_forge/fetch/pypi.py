"""Python projects: from a locator to the file's URL and digest, through the Simple API.

Only the index is read: no metadata is unpacked, nothing is resolved, no build backend is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from packaging.utils import canonicalize_name
from pypi_simple import DistributionPackage, ProjectPage, UnsupportedRepoVersionError

from mmojo_forge.fetch.digests import Expected
from mmojo_forge.fetch.documents import Document, read_document
from mmojo_forge.fetch.failure import FetchError, Kind, UrlFailure, error_of
from mmojo_forge.fetch.http import HttpClient
from mmojo_forge.fetch.locator import PypiLocator
from mmojo_forge.fetch.pip_settings import PipSettings
from mmojo_forge.fetch.transfer import Candidate
from mmojo_forge.fetch.url import scheme_of, with_slash

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
        self.client = replace(client, ca_bundle=pip.ca_bundle) if pip.ca_bundle else client
        self._indexes = pip.indexes

    def find(self, locator: PypiLocator) -> IndexFile:
        """The first index's entry for the file; raises FetchError (`not-found`, `pypi-no-digest`, …)."""
        failures = []
        for found in self._entries(locator):
            if isinstance(found, UrlFailure):
                failures.append(found)
                if found.kind is not Kind.GONE:
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
                yield UrlFailure(found.url, Kind.MISMATCH, f"the index says sha256:{announced}, not sha256:{sha256}")

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
        raise UrlFailure(url, Kind.GONE, f"the index does not list {locator.file}")


def _packages(project: str, document: Document) -> list[DistributionPackage]:
    try:
        if document.media_type.endswith("json"):
            page = ProjectPage.from_json_data(json.loads(document.body), document.url)
        else:
            page = ProjectPage.from_html(project, document.body, document.url)
    except (ValueError, TypeError, KeyError, UnsupportedRepoVersionError) as error:
        raise UrlFailure(document.url, Kind.REFUSED, f"not a page of the Simple API: {error}") from error
    return page.packages
