"""The keys of this user and the keys that are trusted: by the workspace, for all who share it, and by the user.

    ~/.config/mmojo-forge/builder.key   NAME:BASE64, what this user signs with; nobody else may read it
    ~/.config/mmojo-forge/keys.toml     whom this user trusts
    WORKSPACE/forge.keys                whom the workspace trusts; committed with it

Both lists have one table per key, so that the changes of two people merge:

    [key."builder-0a1b2c3d"]
    public = "BASE64"
    revoked = "2026-01-31: the laptop was stolen"
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from mmojo_forge.engine.config import read_keys
from mmojo_forge.engine.locations import USER_KEYS, WORKSPACE_KEYS
from mmojo_forge.errors import ForgeError
from mmojo_forge.files import write_atomically
from mmojo_forge.model.signature import PrivateKey, PublicKey, SignatureError


class KeysError(ForgeError):
    """A key file that cannot be read or written, or a key that is not there."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key in one of the lists; `revoked` is the reason why it no longer counts, empty while it does."""

    key: PublicKey
    file: Path
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The own key and both lists. Nothing is read before it is asked for."""

    folder: Path
    workspace: Path

    @property
    def own_file(self) -> Path:
        """Where the own private key lies."""
        return self.folder / "builder.key"

    def own(self) -> PrivateKey:
        """The key that this user signs with, generated when first asked for. Raises KeysError (`key-unreadable`,
        `bad-key`, `key-unwritable`)."""
        try:
            return PrivateKey.parse(self.own_file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return self.generate()
        except OSError as error:
            raise KeysError(f"read {self.own_file}: {error.strerror}", reason="key-unreadable") from error
        except (UnicodeDecodeError, SignatureError) as error:
            raise KeysError(
                f"read {self.own_file}: it is not the line NAME:BASE64 of a private key",
                detail="Restore it from a backup. Without one move it away: the next build makes another key.",
                reason="bad-key",
            ) from error

    def generate(self, name: str = "") -> PrivateKey:
        """A new own key; raises KeysError (`key-exists`) rather than replace one."""
        key = PrivateKey.generate(name)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two first starts at once end up with one key.
            write_atomically(self.own_file, f"{key.dump()}\n".encode(), mode=0o600, replace=False)
        except FileExistsError as error:
            if not name:
                return self.own()
            raise KeysError(
                f"generate a key: {self.own_file} exists",
                detail="What it signed could no longer be told from a stranger's. Move it away first if you mean to.",
                reason="key-exists",
            ) from error
        except OSError as error:
            raise KeysError(f"write {self.own_file}: {error.strerror}", reason="key-unwritable") from error
        return key

    def listed(self) -> list[TrustedKey]:
        """Every key in both lists, revoked ones too; raises ConfigError, KeysError (`keys-malformed`)."""
        return [*_read(self.workspace / WORKSPACE_KEYS), *_read(self.folder / USER_KEYS)]

    def trusted(self) -> list[PublicKey]:
        """The keys that count: the own one, and those in a list that are revoked in neither."""
        listed = self.listed()
        revoked = {one.key.key for one in listed if one.revoked}
        keys = [one.key for one in listed if one.key.key not in revoked]
        own = self.own().public if self.own_file.exists() else None
        return [*([own] if own and own.key not in revoked else []), *keys]

    def revoked(self) -> list[PublicKey]:
        """The keys that count no more; raises KeysError (`keys-malformed`)."""
        return [one.key for one in self.listed() if one.revoked]

    def trust(self, key: PublicKey, *, for_all: bool) -> Path:
        """Add a key to the workspace's list, or to the user's; the list's file. Raises KeysError."""
        path = self._list(for_all)
        rows = {one.key.name: one for one in _read(path)}
        rows[key.name] = TrustedKey(key, path)
        _write(path, rows)
        return path

    def revoke(self, name: str, reason: str) -> Path:
        """Let the key called `name` count no longer, wherever it is listed; raises KeysError (`no-such-key`)."""
        for path in (self.workspace / WORKSPACE_KEYS, self.folder / USER_KEYS):
            rows = {one.key.name: one for one in _read(path)}
            if name in rows:
                rows[name] = TrustedKey(rows[name].key, path, revoked=reason or "revoked")
                _write(path, rows)
                return path
        raise KeysError(
            f"revoke key {name}: no list has it", detail="`forge cache key show` lists them.", reason="no-such-key"
        )

    def _list(self, for_all: bool) -> Path:
        return self.workspace / WORKSPACE_KEYS if for_all else self.folder / USER_KEYS


def _read(path: Path) -> Iterator[TrustedKey]:
    for name, table in sorted(read_keys(path).items()):
        try:
            yield TrustedKey(PublicKey.parse(f"{name}:{table.public}"), path, table.revoked)
        except SignatureError as error:
            raise KeysError(
                f"read {path}: key {name!r} is not a name with 32 bytes in base64",
                detail="`forge cache key show` prints a key as its owner is to send it.",
                reason="keys-malformed",
            ) from error


def _write(path: Path, rows: dict[str, TrustedKey]) -> None:
    table = {
        name: {"public": row.key.text, **({"revoked": row.revoked} if row.revoked else {})}
        for name, row in sorted(rows.items())
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A reason that was typed in another encoding than UTF-8 has bytes that no TOML file may have.
        write_atomically(path, tomli_w.dumps({"key": table}).encode("utf-8", "replace"))
    except OSError as error:
        raise KeysError(f"write {path}: {error.strerror}", reason="key-unwritable") from error
