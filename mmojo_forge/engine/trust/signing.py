"""Signs and verifies files of any size. The signature is FILE.minisig beside FILE, in the format of `minisign`.

The key is the same one that signs traces. That is safe: here it signs a 64-byte digest, or that digest and a comment.
Neither can be confused with a trace, which is canonical JSON, or with an envelope, which starts with its own name.
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
# A signature has four lines, and minisign itself accepts no comment longer than 8 KiB.
_LARGEST_TEXT = 1 << 16


class SigningError(ForgeError):
    """A file, key or signature cannot be read."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file with a valid signature by `key`, and the signed comment."""

    path: Path
    key: MinisignKey
    comment: str


def signature_path(path: Path) -> Path:
    """The usual path of the signature for the file at `path`."""
    return path.with_name(path.name + SUFFIX)


def sign_file(path: Path, key: PrivateKey, *, comment: str = "", out: Path | None = None) -> Path:
    """Sign the file at `path`; returns the path of the signature.

    The comment defaults to the file's name. The same file, name, key and comment give the same bytes. Raises
    SigningError, SignatureError (`bad-comment`), DocumentError (`document-unwritable`).
    """
    # File names may contain control characters, which must not reach a terminal.
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
    """The trusted key that signed the file at `path`, with the comment. A revoked key is never accepted.

    Raises SigningError and SignatureError: `signature-missing`, `signature-malformed`, `legacy-signature`,
    `key-revoked`, `unknown-signer`, `bad-signature`, `bad-comment-signature`.
    """
    read = MinisignSignature.parse(_text(signature or signature_path(path), path))
    bad = {key.key.key for key in revoked}
    # Several keys may share an id: it is eight bytes that the creator of the key chose.
    candidates = [key for key in trusted if key.id == read.key_id]
    allowed = [key for key in candidates if key.key.key not in bad]
    if not allowed:
        revoked_id = candidates or read.key_id in {key.id for key in revoked}
        raise _revoked(path, read) if revoked_id else _unknown(path, read)
    digest = _digest(path, "verify")
    key = next((candidate for candidate in allowed if candidate.key.holds(digest, read.signature)), allowed[0])
    read.check(digest, key, str(path))
    return Verified(path, key, read.comment)


def read_private_key(path: Path) -> PrivateKey:
    """The private key in a file such as builder.key; raises SigningError (`unreadable`), SignatureError (`bad-key`)."""
    return PrivateKey.parse(_read_text(path, "read the key"))


def read_public_key(given: str) -> MinisignKey:
    """The public key that `given` spells, or that the file `given` contains.

    Raises SignatureError (`bad-key`), SigningError.
    """
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
        f"verify {path}: it is signed by key {show_id(read.key_id)}, which is not trusted here",
        detail="Get the signer's public key from its owner. Then pass it with --key, or trust it with\n"
        "`forge cache key trust NAME:KEY`.",
        reason="unknown-signer",
    )


def _revoked(path: Path, read: MinisignSignature) -> SignatureError:
    return SignatureError(
        f"verify {path}: it is signed by key {show_id(read.key_id)}, which was revoked",
        detail="`forge cache key show` gives the reason. Get the file again, signed with another key.",
        reason="key-revoked",
    )


def _digest(path: Path, what: str) -> bytes:
    """BLAKE2b-512 of the file, the prehash of minisign. Reads the file in chunks."""
    try:
        # A pipe or a device might never end, or have other content the next time.
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
            detail="Get the signature from the source of the file. If it is elsewhere, name it with --signature.",
            reason="signature-missing",
        )
    return _read_text(signature, "read the signature")


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST_TEXT).decode("utf-8", errors="replace")
    except OSError as error:
        raise SigningError(f"{what} {path}: {error.strerror or error}", reason="unreadable") from error
