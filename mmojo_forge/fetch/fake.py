"""A fetcher for tests. It takes content from a dictionary, and verifies it like the real fetcher."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmojo_forge.fetch.download import Digests, Expected, OnProgress
from mmojo_forge.fetch.failure import FetchError, Mismatch
from mmojo_forge.model.derivation import Download, Source
from mmojo_forge.model.lockfile import Pin, Userland


@dataclass(slots=True)
class FakeFetcher:
    """Returns `contents` by locator and `userlands` by name. `fetched` lists the requested locators in order."""

    contents: Mapping[str, bytes] = field(default_factory=dict)
    userlands: Mapping[str, Userland] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def fetch(self, source: Source | Download, destination: Path, on_progress: OnProgress | None = None) -> None:
        """Write the content to `destination`; raises FetchError (`not-found`, `hash-mismatch`)."""
        content = self._content(source.locator)
        digests = Digests()
        digests.update(content)
        expected = Expected(source.size, source.digests)
        difference = digests.difference(expected)
        if difference is not None:
            kept = destination.with_name(destination.name + ".mismatch")
            kept.write_bytes(content)
            raise FetchError(
                f"fetch {source.name}: expected {difference[0]}, got {difference[1]}",
                reason="hash-mismatch",
                mismatch=Mismatch(*difference, source.locator, kept),
            )
        destination.write_bytes(content)
        if on_progress is not None:
            on_progress(len(content), len(content))

    def resolve(self, name: str, locator: str, mirrors: tuple[str, ...], destination: Path) -> Pin:
        """The pin of the content, which is left at `destination`; raises FetchError (`not-found`)."""
        content = self._content(locator)
        destination.write_bytes(content)
        digests = Digests()
        digests.update(content)
        received = digests.received(locator)
        return Pin(name, locator, received.sha256, received.blake3, received.size, mirrors)

    def resolve_userland(
        self,
        name: str,
        suite: str,
        architecture: str,
        packages: tuple[str, ...],
        keep: Callable[[Pin, Path], None] | None = None,
    ) -> Userland:
        """The userland of this name; raises FetchError (`debian-package-unknown`, `not-found`)."""
        if name not in self.userlands:
            raise FetchError(f"resolve {name}: the fake has no such userland", reason="debian-package-unknown")
        userland = self.userlands[name]
        if keep is not None:
            with tempfile.TemporaryDirectory() as scratch:
                for pin in userland.closure.values():
                    content = Path(scratch, pin.name)
                    content.write_bytes(self._content(pin.locator))
                    keep(pin, content)
        return userland

    def resolve_npm(
        self,
        tarballs: Mapping[str, str],
        keep: Callable[[Pin, Path], None],
        on_pin: Callable[[Pin], None] = lambda _pin: None,
    ) -> dict[str, Pin]:
        """The pins of the contents; raises FetchError (`not-found`, `hash-mismatch`)."""
        pins = {}
        with tempfile.TemporaryDirectory() as scratch:
            for locator, integrity in tarballs.items():
                destination = Path(scratch, "tarball")
                pin = self.resolve(locator, locator, (), destination)
                digest = base64.b64encode(hashlib.sha512(destination.read_bytes()).digest()).decode()
                if integrity != f"sha512-{digest}":
                    raise FetchError(f"fetch {locator}: expected {integrity}", reason="hash-mismatch")
                keep(pin, destination)
                on_pin(pin)
                pins[locator] = pin
        return pins

    def _content(self, locator: str) -> bytes:
        self.fetched.append(locator)
        if locator not in self.contents:
            raise FetchError(f"fetch {locator}: the fake has no such content", reason="not-found")
        return self.contents[locator]
