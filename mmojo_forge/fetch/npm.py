"""npm packages: turns a locator into the tarball's URL and digest, through the registry in npm's configuration."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmojo_forge.fetch.download import Candidate, Expected
from mmojo_forge.fetch.failure import FetchError, error_of
from mmojo_forge.fetch.locator import NpmLocator
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.net.client import HttpClient
from mmojo_forge.net.failure import FailureKind, UrlFailure
from mmojo_forge.net.stream import read_document
from mmojo_forge.net.url import scheme_of, with_slash

_ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"
_STRONG = ("sha512", "sha384", "sha256")


@dataclass(frozen=True, slots=True)
class Tarball:
    """The tarball of a version, as the registry describes it."""

    url: str
    expected: Expected


class NpmRegistry:
    """The registries that npm uses on this machine. npm's configuration is read once."""

    def __init__(self, settings: FetchSettings, client: HttpClient) -> None:
        self._settings = settings
        self._client = client
        self._guard = threading.Lock()
        self._configuration: Mapping[str, str] | None = None

    def find(self, locator: NpmLocator) -> Tarball:
        """The tarball with its digests; raises FetchError (`not-found`, `npm-no-digest`, …)."""
        try:
            tarball = self._describe(self._registry(locator.scope), locator)
        except UrlFailure as failure:
            raise error_of(str(locator), [failure]) from failure
        if not tarball.expected.digests:
            raise FetchError(
                f"resolve {locator}: the registry gives no sha512",
                detail="forge needs one to verify the download.",
                reason="npm-no-digest",
            )
        return tarball

    def candidates(self, locator: NpmLocator) -> Iterator[Candidate]:
        """The URL that registries use by convention, which saves a request; then the URL that this registry gives."""
        registry = self._registry(locator.scope)
        file = f"{locator.package.rpartition('/')[2]}-{locator.version}.tgz"
        usual = f"{with_slash(registry)}{locator.package}/-/{file}"
        yield usual
        try:
            described = self._describe(registry, locator).url
        except UrlFailure as failure:
            yield failure
        else:
            if described != usual:
                yield described

    def _registry(self, scope: str) -> str:
        with self._guard:
            if self._configuration is None:
                self._configuration = read_configuration(self._settings)
        return find_registry(self._configuration, scope)

    def _describe(self, registry: str, locator: NpmLocator) -> Tarball:
        url = with_slash(registry) + quote(locator.package, safe="@")
        document = read_document(self._client, url, accept=_ABBREVIATED)
        try:
            versions = json.loads(document.body)["versions"]
            if locator.version not in versions:
                raise UrlFailure(url, FailureKind.GONE, f"the registry has no version {locator.version}")
            return _tarball(versions[locator.version]["dist"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UrlFailure(url, FailureKind.REFUSED, f"not a package description: {error!r}") from error


def find_registry(configuration: Mapping[str, str], scope: str = "") -> str:
    """The registry for packages of `scope`; raises FetchError (`npm-registry-unknown`)."""
    for key in ([f"{scope}:registry"] if scope else []) + ["registry"]:
        value = configuration.get(key, "")
        if scheme_of(value) in {"http", "https"}:
            return value
    raise FetchError(
        "find npm's registry: npm is not installed, and no configuration file names one",
        detail="Install npm (Debian: apt-get install npm), or set NPM_CONFIG_REGISTRY to the registry's URL.",
        reason="npm-registry-unknown",
    )


def read_configuration(settings: FetchSettings) -> Mapping[str, str]:
    """npm's configuration, from npm itself, else from configuration files and the environment."""
    npm = shutil.which("npm", path=settings.environment.get("PATH"))
    reported = _ask_npm(npm, settings) if npm else {}
    return reported or {**_configured_in_files(settings), **_configured_in_environment(settings)}


def _ask_npm(npm: str, settings: FetchSettings) -> dict[str, str]:
    try:
        done = subprocess.run(
            [npm, "config", "list", "--json"],
            cwd="/",  # npm would also read the .npmrc of a project in the current folder
            env=dict(settings.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        reported = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    return (
        {key: value for key, value in reported.items() if isinstance(value, str)} if isinstance(reported, dict) else {}
    )


def _configured_in_environment(settings: FetchSettings) -> dict[str, str]:
    # Like npm, prefer the lower-case name.
    for variable in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if settings.environment.get(variable):
            return {"registry": settings.environment[variable]}
    return {}


def _configured_in_files(settings: FetchSettings) -> dict[str, str]:
    """The settings in the machine's file, overridden by those in the user's."""
    environment = settings.environment
    user = environment.get("NPM_CONFIG_USERCONFIG") or str(Path(environment.get("HOME", "/")) / ".npmrc")
    found: dict[str, str] = {}
    for path in (settings.machine / "etc" / "npmrc", Path(user)):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines)
        found.update({name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals})
    return found


def _tarball(dist: Any) -> Tarball:
    return Tarball(str(dist["tarball"]), expected_by(str(dist.get("integrity", ""))))


def expected_by(integrity: str) -> Expected:
    """The strong digests in an integrity value (W3C Subresource Integrity); raises ValueError for bad base64."""
    digests = {}
    for token in integrity.split():
        algorithm, _, encoded = token.partition("?")[0].partition("-")
        if algorithm in _STRONG:
            digests[algorithm] = _hex(encoded)
    return Expected(None, digests)


def _hex(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"integrity {encoded[:40]!r} is not base64") from error
