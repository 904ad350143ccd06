"""The public keys and signatures of minisign, as values. The stock `minisign` can make and check them.

Source: "Signature format" and "Public key format" in minisign's documentation. A signature has four lines:

    untrusted comment: ANY TEXT
    base64("ED", the key's id, Ed25519 over the BLAKE2b-512 of the file)
    trusted comment: TEXT THAT IS SIGNED TOO
    base64(Ed25519 over the signature's 64 bytes and the trusted comment)

A public key has two lines. Only the second one, which begins with RW, matters:

    untrusted comment: ANY TEXT
    base64("Ed", the key's id, the key's 32 bytes)

Forge refuses the older kind of signature, "Ed" over the whole file: checking it needs the whole file in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from mmojo_forge.model.signature import PrivateKey, PublicKey, SignatureError

KEY_HINT = "A key is a line that begins with RW, a file minisign.pub that contains one, or NAME:BASE64."
_KEY_KIND = b"Ed"
_HASHED = b"ED"
_LEGACY = b"Ed"
_ID_BYTES = 8
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_UNTRUSTED = "untrusted comment: "
_TRUSTED = "trusted comment: "
# minisign's buffer for the comment line, less its prefix and the line end.
_LONGEST_COMMENT = 8000


@dataclass(frozen=True, slots=True)
class MinisignKey:
    """A public key with its id: the eight bytes by which signatures refer to it."""

    id: bytes
    key: PublicKey

    @classmethod
    def of(cls, key: PublicKey) -> MinisignKey:
        """One of forge's keys. Its id is a digest of the key, so nobody has to store the id."""
        return cls(hashlib.sha256(key.key).digest()[:_ID_BYTES], key)

    @classmethod
    def parse(cls, text: str) -> MinisignKey:
        """The key in a text by minisign or by forge, with or without comment; raises SignatureError (`bad-key`)."""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_UNTRUSTED)]
        line = lines[0].strip() if len(lines) == 1 else ""
        if ":" in line:
            return cls.of(PublicKey.parse(line))
        data = _decode(line)
        if len(data) != len(_KEY_KIND) + _ID_BYTES + _KEY_BYTES or not data.startswith(_KEY_KIND):
            raise SignatureError("read a public key: the text is not a key", detail=KEY_HINT, reason="bad-key")
        key_id = data[len(_KEY_KIND) : -_KEY_BYTES]
        return cls(key_id, PublicKey(f"minisign-{show_id(key_id)}", data[-_KEY_BYTES:]))

    @property
    def text(self) -> str:
        """The line for `minisign -P`."""
        return _encode(_KEY_KIND + self.id + self.key.key)

    def dump(self) -> str:
        """The text of a minisign.pub."""
        return f"{_UNTRUSTED}minisign public key {show_id(self.id)}\n{self.text}\n"


@dataclass(frozen=True, slots=True)
class MinisignSignature:
    """A signature over the BLAKE2b-512 of a file, and over a comment."""

    key_id: bytes
    signature: bytes
    comment: str
    comment_signature: bytes

    @classmethod
    def make(cls, digest: bytes, key: PrivateKey, comment: str) -> MinisignSignature:
        """The signature of `key`, always the same bytes for the same input. Raises SignatureError (`bad-comment`)."""
        if not comment.replace("\t", " ").isprintable() or len(comment.encode()) > _LONGEST_COMMENT:
            raise SignatureError(
                f"sign with a comment: the comment must be one line of at most {_LONGEST_COMMENT} bytes",
                reason="bad-comment",
            )
        signature = key.sign(digest)
        own = MinisignKey.of(key.public)
        return cls(own.id, signature, comment, key.sign(signature + comment.encode()))

    @classmethod
    def parse(cls, text: str) -> MinisignSignature:
        """The signature in a .minisig file; raises SignatureError (`signature-malformed`, `legacy-signature`)."""
        lines = text.splitlines()
        if len(lines) != 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
            raise _malformed("it does not have the four lines of a signature")
        data, comment_signature = _decode(lines[1]), _decode(lines[3])
        head = len(_HASHED) + _ID_BYTES
        if len(data) != head + _SIGNATURE_BYTES or len(comment_signature) != _SIGNATURE_BYTES:
            raise _malformed("its second or fourth line is not a signature in base64")
        if data.startswith(_LEGACY):
            raise SignatureError(
                "read a minisign signature: it has the legacy format, which signs the whole file",
                detail="Sign the file again without minisign's option -l, or check this signature with minisign.",
                reason="legacy-signature",
            )
        if not data.startswith(_HASHED):
            raise _malformed("its algorithm is unknown")
        return cls(data[len(_HASHED) : head], data[head:], lines[2].removeprefix(_TRUSTED), comment_signature)

    def dump(self) -> str:
        """The text of a .minisig file."""
        return (
            f"{_UNTRUSTED}signature from forge, key {show_id(self.key_id)}\n"
            f"{_encode(_HASHED + self.key_id + self.signature)}\n"
            f"{_TRUSTED}{self.comment}\n{_encode(self.comment_signature)}\n"
        )

    def check(self, digest: bytes, key: MinisignKey, what: str) -> None:
        """Raise SignatureError unless `key` signed this digest and the comment: `bad-signature`,
        `bad-comment-signature`. `what` names the file in messages.
        """
        if not key.key.holds(digest, self.signature):
            raise SignatureError(
                f"verify {what}: the signature of {key.key.name} does not match the file",
                detail="Somebody altered or truncated the file or its signature. Download both again.",
                reason="bad-signature",
            )
        if not key.key.holds(self.signature + self.comment.encode(), self.comment_signature):
            raise SignatureError(
                f"verify {what}: somebody altered the comment in its signature; {key.key.name} did sign the file",
                detail="Download the signature again.",
                reason="bad-comment-signature",
            )


def show_id(key_id: bytes) -> str:
    """A key's id as minisign shows it: a little-endian number in hexadecimal."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


def _malformed(cause: str) -> SignatureError:
    return SignatureError(
        f"read a minisign signature: {cause}", detail="Download the signature again.", reason="signature-malformed"
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(line: str) -> bytes:
    """The decoded bytes; empty if the line is not base64."""
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return b""
