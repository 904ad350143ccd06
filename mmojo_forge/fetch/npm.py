"""npm packages: from a locator to the tarball's URL and digest, through the registry that npm is configured with."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmojo_forge.fetch.digests import Expected
from mmojo_forge.fetch.documents import read_document
from mmojo_forge.fetch.failure import FetchError, Kind, UrlFailure, error_of
from mmojo_forge.fetch.http import HttpClient
from mmojo_forge.fetch.locator import NpmLocator
from mmojo_forge.fetch.settings import FetchSettings
from mmojo_forge.fetch.transfer import Candidate
from mmojo_forge.fetch.url import scheme_of, with_slash

_ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"
_STRONG = ("sha512", "sha384", "sha256")


@dataclass(frozen=True, slots=True)
class Tarball:
    """A version's file as the registry describes it."""

    url: str
    expected: Expected


class NpmRegistry:
    """The registry npm uses on this machine; asked for once per scope."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._registries: dict[str, str] = {}

    def find(self, locator: NpmLocator) -> Tarball:
        """The tarball with its integrity; raises FetchError (`not-found`, `npm-no-digest`, …)."""
        try:
            tarball = self._describe(self._registry(locator.scope), locator)
        except UrlFailure as failure:
            raise error_of(str(locator), [failure]) from failure
        if not tarball.expected.digests:
            raise FetchError(
                f"resolve {locator}: the registry gives no sha512 for it",
                detail="Without one the download could not be checked.",
                reason="npm-no-digest",
            )
        return tarball

    def candidates(self, locator: NpmLocator) -> Iterator[Candidate]:
        """Where every registry keeps tarballs, which saves a question; then where this one says it does."""
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
        if scope not in self._registries:
            self._registries[scope] = find_registry(self._client.settings, scope)
        return self._registries[scope]

    def _describe(self, registry: str, locator: NpmLocator) -> Tarball:
        url = with_slash(registry) + quote(locator.package, safe="@")
        document = read_document(self._client, url, accept=_ABBREVIATED)
        try:
            versions = json.loads(document.body)["versions"]
            if locator.version not in versions:
                raise UrlFailure(url, Kind.GONE, f"the registry has no version {locator.version}")
            return _tarball(versions[locator.version]["dist"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UrlFailure(url, Kind.REFUSED, f"not a package description: {error!r}") from error


def find_registry(settings: FetchSettings, scope: str = "") -> str:
    """The registry for packages of `scope`, as npm says or as its configuration files do; raises FetchError."""
    npm = shutil.which("npm", path=settings.environment.get("PATH"))
    for key in ([f"{scope}:registry"] if scope else []) + ["registry"]:
        value = _ask_npm(npm, settings, key) if npm else _configured(settings, key)
        if scheme_of(value) in {"http", "https"}:
            return value
    raise FetchError(
        "find npm's registry: npm is not here to ask, and no configuration names one",
        detail="Install npm (Debian: apt-get install npm), or set NPM_CONFIG_REGISTRY to the registry's URL.",
        reason="npm-registry-unknown",
    )


def _ask_npm(npm: str, settings: FetchSettings, key: str) -> str:
    try:
        done = subprocess.run(
            [npm, "config", "get", key],
            cwd="/",
            env=dict(settings.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _configured(settings: FetchSettings, key: str) -> str:
    environment = settings.environment
    for variable in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if key == "registry" and environment.get(variable):
            return environment[variable]
    user = environment.get("NPM_CONFIG_USERCONFIG") or str(Path(environment.get("HOME", "/")) / ".npmrc")
    for path in (Path(user), settings.machine / "etc" / "npmrc"):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and name.strip() == key:
                return value.strip().strip("\"'")
    return ""


def _tarball(dist: Any) -> Tarball:
    digests = {}
    for token in str(dist.get("integrity", "")).split():
        algorithm, _, encoded = token.partition("?")[0].partition("-")
        if algorithm in _STRONG:
            digests[algorithm] = _hex(encoded)
    return Tarball(str(dist["tarball"]), Expected(None, digests))


def _hex(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"integrity {encoded[:40]!r} is not base64") from error
