"""The fetcher: from a locator to verified bytes (`fetch`), and from a declaration to a pin (`resolve`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from mmojo_forge.fetch import locator as locators
from mmojo_forge.fetch.debian import DebianArchives, DebianPackage
from mmojo_forge.fetch.debian_mirrors import VARIABLES, DebianMirrors
from mmojo_forge.fetch.download import Candidate, Expected, OnProgress, Received, download, produce
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.git import GitArchiver
from mmojo_forge.fetch.locator import (
    Archive,
    DebianLocator,
    FileLocator,
    GitLocator,
    NpmLocator,
    PypiLocator,
    UrlLocator,
)
from mmojo_forge.fetch.npm import NpmRegistry, expected_by
from mmojo_forge.fetch.pypi import PypiIndexes, read_pip_settings
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.model.derivation import Download, Source
from mmojo_forge.model.lockfile import Pin, Userland
from mmojo_forge.net.cancellation import HttpCancellation
from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind
from mmojo_forge.net.url import scheme_of

Keep = Callable[[Pin, Path], None]
"""Given a pin and a file with its verified content, which may be moved away."""

_T = TypeVar("_T")
_SECURITY_POOL = "pool/updates/"


class Fetcher:
    """All ways to get a source. Safe to call from several threads, as long as destinations differ.

    Indexes and mirrors are those of this machine's clients, looked up when first needed.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._cancellation = HttpCancellation()
        self._client = HttpClient(self._settings.http, cancellation=self._cancellation)
        self._mirrors = DebianMirrors(self._settings, self._client)
        self._npm = NpmRegistry(self._settings, self._client)
        self._git = GitArchiver(self._settings, self._cancellation)
        self.debian = DebianArchives(self._settings, self._mirrors)

    @cached_property
    def _pypi(self) -> PypiIndexes:
        return PypiIndexes(self._client, read_pip_settings(self._settings))

    def cancel(self) -> None:
        """Stop every download at once, for good; they raise FetchError (reason `cancelled`)."""
        self._cancellation.cancel()

    def fetch(self, source: Source | Download, destination: Path, on_progress: OnProgress | None = None) -> None:
        """Leave the verified content at `destination`; raises FetchError.

        `<destination>.part` is continued where it is there; wrong content is kept as `<destination>.mismatch`.
        """
        expected = Expected(source.size, source.digests)
        locator = locators.parse(source.locator)
        try:
            self._get(source.name, locator, source.mirrors, destination, expected, on_progress)
        except FetchError as error:
            if isinstance(locator, UrlLocator) and error.attempts:
                raise _may_be_brought(source, error) from error
            raise

    def resolve(self, name: str, locator: str, mirrors: tuple[str, ...], destination: Path) -> Pin:
        """The pin of what `locator` names, with its verified content left at `destination`; raises FetchError."""
        parsed = locators.parse(locator)
        received = self._get(name, parsed, mirrors, destination, self._describe(parsed), None)
        version = parsed.version if isinstance(parsed, PypiLocator | NpmLocator) else ""
        return Pin(name, str(parsed), received.sha256, received.blake3, received.size, tuple(mirrors), version)

    def resolve_userland(
        self, name: str, suite: str, architecture: str, packages: tuple[str, ...], keep: Keep | None = None
    ) -> Userland:
        """The closure of Debian packages; each is downloaded once, for its BLAKE3. Raises FetchError.

        `keep` is given the content of each, in several threads; what it leaves where it is, is removed.
        """
        closure = self.debian.closure(suite, architecture, packages)
        folder = self._settings.state_folder("userland")
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{suite}-") as scratch:
            pins = self._side_by_side(lambda package: self._pin_package(package, Path(scratch), keep), closure)
        return Userland(name, suite, architecture, packages, {pin.name: pin for pin in pins})

    def resolve_npm(
        self, tarballs: Mapping[str, str], keep: Keep, on_pin: Callable[[Pin], None] = lambda _pin: None
    ) -> dict[str, Pin]:
        """The pin of each tarball by its locator, given the integrity that it must have; raises FetchError.

        `keep` is given the content of each, as with `resolve_userland`; then `on_pin` hears of it, in several threads.
        """
        folder = self._settings.state_folder("npm")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:

            def pin(numbered: tuple[int, tuple[str, str]]) -> Pin:
                number, (locator, integrity) = numbered
                made = self._pin_tarball(locator, integrity, Path(scratch, f"{number}.tgz"), keep)
                on_pin(made)
                return made

            return {made.locator: made for made in self._side_by_side(pin, enumerate(tarballs.items()))}

    def _side_by_side(self, make: Callable[[_T], Pin], items: Iterable[_T]) -> list[Pin]:
        """What `make` makes of each item, in order; the first error stops the others."""
        with ThreadPoolExecutor(self._settings.parallel, "forge-fetch") as workers:
            try:
                return list(workers.map(make, items))
            except BaseException as error:
                workers.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, FetchError):
                    # Ctrl-C: what is under way would go on until it is done.
                    self.cancel()
                raise

    def _pin_tarball(self, locator: str, integrity: str, destination: Path, keep: Keep) -> Pin:
        parsed = locators.parse(locator)
        received = self._get(locator, parsed, (), destination, expected_by(integrity), None)
        version = parsed.version if isinstance(parsed, NpmLocator) else ""
        pin = Pin(locator, locator, received.sha256, received.blake3, received.size, version=version)
        keep(pin, destination)
        destination.unlink(missing_ok=True)
        return pin

    def _pin_package(self, package: DebianPackage, scratch: Path, keep: Keep | None) -> Pin:
        destination = scratch / f"{package.name}.deb"
        expected = Expected(package.size, {"sha256": package.sha256})
        received = self._get(package.name, package.locator, (), destination, expected, None)
        pin = Pin(
            package.name,
            str(package.locator),
            received.sha256,
            received.blake3,
            received.size,
            version=package.version,
        )
        if keep is not None:
            keep(pin, destination)
        destination.unlink(missing_ok=True)
        return pin

    def _describe(self, locator: locators.Locator) -> Expected:
        """What indexes say of a file before it is downloaded; nothing of a URL or a commit."""
        if isinstance(locator, PypiLocator):
            return self._pypi.find(locator).expected
        if isinstance(locator, NpmLocator):
            return self._npm.find(locator).expected
        if isinstance(locator, DebianLocator):
            return self.debian.describe(locator)
        return Expected()

    def _get(
        self,
        name: str,
        locator: locators.Locator,
        mirrors: tuple[str, ...],
        destination: Path,
        expected: Expected,
        on_progress: OnProgress | None,
    ) -> Received:
        if isinstance(locator, FileLocator):
            raise _by_hand(name, locator, expected)
        if isinstance(locator, GitLocator):
            return produce(
                self._client,
                name,
                locator.url,
                lambda sink: self._git.write(locator, sink),
                destination,
                expected=expected,
                on_progress=on_progress,
            )
        candidates = self._candidates(locator, mirrors, expected)
        client = self._pypi.client if isinstance(locator, PypiLocator) else self._client
        try:
            return download(client, name, candidates, destination, expected=expected, on_progress=on_progress)
        except FetchError as error:
            if isinstance(locator, DebianLocator) and error.reason == FailureKind.GONE:
                raise _left_mirror(name, locator, error) from error
            raise

    def _candidates(
        self, locator: locators.Locator, mirrors: tuple[str, ...], expected: Expected
    ) -> Iterator[Candidate]:
        if isinstance(locator, PypiLocator):
            yield from self._pypi.candidates(locator, expected.digests.get("sha256", ""))
        elif isinstance(locator, NpmLocator):
            yield from self._npm.candidates(locator)
        elif isinstance(locator, DebianLocator):
            yield from self._debian_urls(locator)
        elif isinstance(locator, UrlLocator):
            yield from self._allowed([locator.url])
        yield from self._allowed(mirrors)

    def _debian_urls(self, locator: DebianLocator) -> Iterator[str]:
        """The file at every mirror; then where point releases move what the security archive had."""
        yield from (base + quote(locator.path) for base in self._mirrors.bases(locator.archive))
        if locator.archive is Archive.SECURITY and locator.path.startswith(_SECURITY_POOL):
            path = quote("pool/" + locator.path.removeprefix(_SECURITY_POOL))
            yield from (base + path for base in self._mirrors.bases(Archive.DEBIAN))

    def _allowed(self, urls: Iterable[str]) -> Iterator[str]:
        for url in urls:
            scheme = scheme_of(url)
            if scheme != "https" and scheme not in self._settings.plain_schemes:
                raise FetchError(
                    f"fetch {url}: {scheme} is not allowed", detail="Use an https URL.", reason="scheme-refused"
                )
            yield url


def _by_hand(name: str, locator: FileLocator, expected: Expected) -> FetchError:
    if expected.digests:
        return FetchError(
            f"fetch {name}: it is brought by hand ({locator})",
            detail=f"Get the file with SHA-256 {expected.digests['sha256']} ({expected.size} bytes), then run\n"
            "  forge store add-source FILE",
            reason="source-by-hand",
        )
    return FetchError(
        f"pin {name}: it is brought by hand ({locator})",
        detail=f"Whoever has it pins it:\n  forge store add-source --pin --name {locator.name} FILE",
        reason="source-by-hand",
    )


def _may_be_brought(source: Source | Download, error: FetchError) -> FetchError:
    return FetchError(
        error.message,
        detail=f"{error.detail}\nThe file may also be brought by hand: get {source.name} with SHA-256 {source.sha256} "
        f"({source.size} bytes) on any machine, then run\n  forge store add-source {source.name}",
        reason=error.reason,
        attempts=error.attempts,
        mismatch=error.mismatch,
    )


def _left_mirror(name: str, locator: DebianLocator, error: FetchError) -> FetchError:
    tried = "\n".join(f"  {url}: {cause}" for url, cause in error.attempts)
    return FetchError(
        f"fetch {name}: it has left the mirror ({locator})",
        detail=(
            "Debian's mirrors drop superseded versions. Ways out:\n"
            f"  forge lock --update {name}    pin the version that is there now\n"
            f"  {VARIABLES[locator.archive]}=URL    another mirror that still has it, for instance a snapshot\n"
            "  a cache that still has it by hash\n"
            f"Tried:\n{tried}"
        ),
        reason="pin-left-mirror",
        attempts=error.attempts,
    )
