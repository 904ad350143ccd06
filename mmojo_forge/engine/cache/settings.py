"""Which caches there are, and how far to trust what they say: two small TOML files, the user's before the workspace's.

    WORKSPACE/forge.toml                    committed: the caches that everybody who works on this uses
    ~/.config/mmojo-forge/config.toml       this user's, asked first; a table of the same name replaces the workspace's

    [cache.team]
    url = "https://cache.example.org/mmojo"     or file:, s3:, bazel+http: …; a path is relative to the file
    push = "after-build"                        "manual" if left out
    connections = 8
    redirect_hosts = ["objects.example.org"]
    enabled = true
    token_file = "~/.config/mmojo-forge/team.token"    the user's file only, as are the next three
    token_variable = "TEAM_CACHE_TOKEN"
    ca_bundle = "…"
    plain_token = false

    [trust]
    agree = 1           this many builders must say the same of a reproducible output
    own_only = false    count only what was built with the own key

A workspace that names a token file would have it sent to whatever URL it likes; so only the user can.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmojo_forge.engine.workspace import WORKSPACE_SETTINGS
from mmojo_forge.errors import ForgeError

_SECRETS = frozenset({"token_file", "token_variable", "ca_bundle", "plain_token"})


class CacheSettingsError(ForgeError):
    """A settings file that cannot be read, or a cache that is not in any."""


class CacheTable(BaseModel):
    """One cache as it stands in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str = Field(min_length=1)
    push: Literal["manual", "after-build"] = "manual"
    connections: int = Field(default=8, ge=1, le=64)
    redirect_hosts: frozenset[str] = frozenset()
    enabled: bool = True
    token_file: str = ""
    token_variable: str = ""
    ca_bundle: str = ""
    plain_token: bool = False


class TrustTable(BaseModel):
    """What counts as known."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    agree: int = Field(default=1, ge=1)
    own_only: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    cache: dict[str, CacheTable] = {}
    trust: TrustTable | None = None


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
    """A cache that is in no file; a relative path begins at `base`."""
    return _anchored(CacheTable(url=place), base)


def read_cache_settings(workspace: Path, user: Path, *, base: Path) -> CacheSettings:
    """The settings of both files together; raises CacheSettingsError (`settings-malformed`). `base` is where paths
    begin that are given instead of names."""
    own = _read(user)
    shared = _read(workspace / WORKSPACE_SETTINGS)
    for name, table in shared.cache.items():
        secrets = sorted(_SECRETS & table.model_fields_set)
        if secrets and name not in own.cache:
            raise CacheSettingsError(
                f"read {workspace / WORKSPACE_SETTINGS}: cache {name} has {secrets[0]}, which is for each user to say",
                detail=f"Put [cache.{name}] with its url into {user}.",
                reason="settings-malformed",
            )
    caches = {**own.cache, **{name: table for name, table in shared.cache.items() if name not in own.cache}}
    return CacheSettings(caches, own.trust or shared.trust or TrustTable(), base)


def _read(path: Path) -> _File:
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return _File()
    except (OSError, ValueError, ValidationError) as error:
        raise CacheSettingsError(
            f"read {path}: not usable as settings", detail=str(error), reason="settings-malformed"
        ) from error
    return parsed.model_copy(
        update={"cache": {name: _anchored(table, path.parent) for name, table in parsed.cache.items()}}
    )


def _anchored(table: CacheTable, folder: Path) -> CacheTable:
    """The table with a path instead of a URL made absolute."""
    if ":" in table.url.partition("/")[0]:
        return table
    return table.model_copy(update={"url": str(folder / Path(table.url).expanduser())})
