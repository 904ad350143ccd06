"""Which caches a command means, of those that the configuration has: by name, by URL, or those that are enabled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mmojo_forge.engine.config import CacheTable, TrustTable, explain
from mmojo_forge.errors import ForgeError


class CacheSettingsError(ForgeError):
    """A cache that no file names and that is no URL either, or whose token cannot be read."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The caches by name, those to be asked first first, and the policy."""

    caches: Mapping[str, CacheTable]
    trust: TrustTable
    base: Path

    def chosen(self, names: tuple[str, ...]) -> dict[str, CacheTable]:
        """The caches of these names or URLs, or those that are enabled; raises CacheSettingsError (`no-such-cache`)."""
        if not names:
            return {name: table for name, table in self.caches.items() if table.enabled}
        return {name: self.one(name) for name in names}

    def to_push_to(self, names: tuple[str, ...]) -> dict[str, CacheTable]:
        """The caches to push to: those named, else the only one there is, else those that builds are pushed to.

        Raises CacheSettingsError (`no-such-cache`, `which-cache`).
        """
        enabled = self.chosen(names)
        if names or len(enabled) == 1:
            return enabled
        automatic = {name: table for name, table in enabled.items() if table.push == "after-build"}
        if automatic:
            return automatic
        raise CacheSettingsError(
            f"push: {'which of the caches ' + ', '.join(enabled) if enabled else 'there is no cache'}",
            detail="Say --to NAME, URL or FOLDER.",
            reason="which-cache",
        )

    def one(self, name: str) -> CacheTable:
        """The cache of this name, URL or path; raises CacheSettingsError (`no-such-cache`)."""
        if name in self.caches:
            return self.caches[name]
        if is_place(name):
            table = table_of(name, self.base)
            # The same place under another name: with its token.
            return next((known for known in self.caches.values() if known.url == table.url), table)
        raise CacheSettingsError(
            f"use cache {name}: there is none of that name",
            detail=f"There are: {', '.join(self.caches) or 'none'}. A URL or a path with a slash will do too.",
            reason="no-such-cache",
        )


def is_place(name: str) -> bool:
    """Whether this is a URL or a path, and no name."""
    return ":" in name or "/" in name or name in {".", ".."}


def table_of(place: str, base: Path) -> CacheTable:
    """A cache that is in no file; a relative path begins at `base`. Raises CacheSettingsError."""
    try:
        return CacheTable(url=place).anchored(base)
    except ValidationError as error:
        cause, detail, reason = explain(error)
        raise CacheSettingsError(f"use cache {place!r}: it {cause}", detail=detail, reason=reason) from error
