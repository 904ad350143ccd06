"""Signing files of any size, and checking them: FILE.minisig beside FILE, which the stock `minisign` reads as well.

The key is the one that signs what is built. What it signs here is 64 bytes, or 64 bytes and a comment, and can be
taken neither for a trace, which is canonical JSON, nor for an envelope, which begins with its own name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.engine.document import write_document
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.minisign import KEY_HINT, MinisignKey, MinisignSignature, show_id
from mmojo_forge.model.signature import PrivateKey, SignatureError

SUFFIX = ".minisig"
# Four lines; minisign itself reads no comment longer than 8 KiB.
_LARGEST_TEXT = 1 << 16


class SigningError(ForgeError):
    """A file that cannot be read to be signed or verified."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that is what `key` signed, with the comment that was signed with it."""

    path: Path
    key: MinisignKey
    comment: str


def signature_path(path: Path) -> Path:
    """Where the signature of the file at `path` lies."""
    return path.with_name(path.name + SUFFIX)


def sign_file(path: Path, key: PrivateKey, *, comment: str = "", out: Path | None = None) -> Path:
    """Sign the file at `path`; where the signature lies. The same file, name, key and comment give the same bytes.

    The comment is the file's name if none is given. Raises SigningError, SignatureError
    (`bad-comment`), DocumentError (`document-unwritable`).
    """
    # Some file systems allow names that no terminal should be shown.
    name = "".join(letter if letter.isprintable() else "?" for letter in path.name)
    signature = MinisignSignature.make(_digest(path, "sign"), key, comment or f"file:{name}\thashed")
    to = out or signature_path(path)
    write_document(to, signature.dump().encode())
    return to


def verify_file(
    path: Path,
    trusted: Iterable[MinisignKey],
    *,
    revoked: Iterable[MinisignKey] = (),
    signature: Path | None = None,
) -> Verified:
    """Who of the trusted signed the file at `path`; a revoked key counts for nothing, trusted or not.

    Raises SigningError and SignatureError: `signature-missing`, `signature-malformed`, `legacy-signature`,
    `key-revoked`, `unknown-signer`, `bad-signature`, `bad-comment-signature`.
    """
    read = MinisignSignature.parse(_text(signature or signature_path(path), path))
    bad = {key.key.key for key in revoked}
    # Two keys may have one id: it is eight bytes that whoever made the key chose.
    candidates = [key for key in trusted if key.id == read.key_id]
    allowed = [key for key in candidates if key.key.key not in bad]
    if not allowed:
        revoked_id = candidates or read.key_id in {key.id for key in revoked}
        raise _revoked(path, read) if revoked_id else _unknown(path, read)
    digest = _digest(path, "verify")
    key = next((one for one in allowed if one.key.holds(digest, read.signature)), allowed[0])
    read.check(digest, key, str(path))
    return Verified(path, key, read.comment)


def read_private_key(path: Path) -> PrivateKey:
    """The key in a file like builder.key; raises SigningError (`unreadable`), SignatureError (`bad-key`)."""
    return PrivateKey.parse(_read_text(path, "read the key"))


def read_public_key(given: str) -> MinisignKey:
    """The key that `given` is, or that the file it names has; raises SignatureError (`bad-key`), SigningError."""
    try:
        return MinisignKey.parse(given)
    except SignatureError:
        if not Path(given).is_file():
            raise SignatureError(
                f"read the public key {given}: it is neither a key nor a file", detail=KEY_HINT, reason="bad-key"
            ) from None
    return MinisignKey.parse(_read_text(Path(given), "read the public key"))


def _unknown(path: Path, read: MinisignSignature) -> SignatureError:
    return SignatureError(
        f"verify {path}: it is signed by key {show_id(read.key_id)}, whom nobody here trusts",
        detail="Give the signer's public key with --key, or trust it with `forge cache key trust NAME:KEY`,\n"
        "after you got it from its owner.",
        reason="unknown-signer",
    )


def _revoked(path: Path, read: MinisignSignature) -> SignatureError:
    return SignatureError(
        f"verify {path}: it is signed by key {show_id(read.key_id)}, which was revoked",
        detail="`forge cache key show` says why. Get the file from its maker again, signed by another key.",
        reason="key-revoked",
    )


def _digest(path: Path, what: str) -> bytes:
    """BLAKE2b-512 of the file, read in pieces."""
    try:
        # A pipe or a device would be read for ever, or be something else the next time.
        if not path.is_file():
            raise SigningError(f"{what} {path}: there is no such file", reason="file-missing")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, hashlib.blake2b).digest()
    except OSError as error:
        raise SigningError(f"{what} {path}: {error.strerror or error}", reason="unreadable") from error


def _text(signature: Path, path: Path) -> str:
    if not signature.exists():
        raise SigningError(
            f"verify {path}: there is no signature {signature}",
            detail="Get it from where the file is from; `forge verify --signature` takes one that lies elsewhere.",
            reason="signature-missing",
        )
    return _read_text(signature, "read the signature")


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST_TEXT).decode("utf-8", errors="replace")
    except OSError as error:
        raise SigningError(f"{what} {path}: {error.strerror or error}", reason="unreadable") from error
