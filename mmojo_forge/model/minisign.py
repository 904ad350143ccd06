"""minisign's public keys and signatures, as values: what the stock `minisign` makes and checks.

Source: "Signature format" and "Public key format" in minisign's documentation. A signature is four lines:

    untrusted comment: ANY TEXT
    base64("ED", the key's id, Ed25519 over the BLAKE2b-512 of the file)
    trusted comment: TEXT THAT IS SIGNED TOO
    base64(Ed25519 over the signature's 64 bytes and the trusted comment)

and a public key is two, the second of which, beginning with RW, is all that matters:

    untrusted comment: ANY TEXT
    base64("Ed", the key's id, the key's 32 bytes)

The older kind of signature, "Ed" over the whole file, is refused: to check one the file must be held in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from mmojo_forge.model.signature import PrivateKey, PublicKey, SignatureError

KEY_HINT = "A key is a line that begins with RW, the file minisign.pub that has it, or NAME:BASE64."
_KEY_KIND = b"Ed"
_HASHED = b"ED"
_LEGACY = b"Ed"
_ID_BYTES = 8
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_UNTRUSTED = "untrusted comment: "
_TRUSTED = "trusted comment: "
# What minisign has room for, less its prefix and the end of the line.
_LONGEST_COMMENT = 8000


@dataclass(frozen=True, slots=True)
class MinisignKey:
    """A public key with the eight bytes by which signatures refer to it."""

    id: bytes
    key: PublicKey

    @classmethod
    def of(cls, key: PublicKey) -> MinisignKey:
        """One of forge's keys, whose id is made of the key: whoever has the one knows the other."""
        return cls(hashlib.sha256(key.key).digest()[:_ID_BYTES], key)

    @classmethod
    def parse(cls, text: str) -> MinisignKey:
        """A key as minisign or as forge writes it, with or without its comment; raises SignatureError (`bad-key`)."""
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_UNTRUSTED)]
        line = lines[0].strip() if len(lines) == 1 else ""
        if ":" in line:
            return cls.of(PublicKey.parse(line))
        data = _decode(line)
        if len(data) != len(_KEY_KIND) + _ID_BYTES + _KEY_BYTES or not data.startswith(_KEY_KIND):
            raise SignatureError("read a public key: it is none", detail=KEY_HINT, reason="bad-key")
        key_id = data[len(_KEY_KIND) : -_KEY_BYTES]
        return cls(key_id, PublicKey(f"minisign-{show_id(key_id)}", data[-_KEY_BYTES:]))

    @property
    def text(self) -> str:
        """The line that `minisign -P` takes."""
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
        """What `key` signs: the same bytes each time. Raises SignatureError (`bad-comment`)."""
        if not comment.replace("\t", " ").isprintable() or len(comment.encode()) > _LONGEST_COMMENT:
            raise SignatureError(
                f"sign with a comment: it must be one line of at most {_LONGEST_COMMENT} bytes", reason="bad-comment"
            )
        signature = key.sign(digest)
        own = MinisignKey.of(key.public)
        return cls(own.id, signature, comment, key.sign(signature + comment.encode()))

    @classmethod
    def parse(cls, text: str) -> MinisignSignature:
        """The signature in a .minisig file; raises SignatureError (`signature-malformed`, `legacy-signature`)."""
        lines = text.splitlines()
        if len(lines) != 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
            raise _malformed("it has not the four lines of one")
        data, comment_signature = _decode(lines[1]), _decode(lines[3])
        head = len(_HASHED) + _ID_BYTES
        if len(data) != head + _SIGNATURE_BYTES or len(comment_signature) != _SIGNATURE_BYTES:
            raise _malformed("a line that should be a signature is none")
        if data.startswith(_LEGACY):
            raise SignatureError(
                "read a minisign signature: it is of the older kind, over the whole file",
                detail="Sign again without minisign's option -l, or check it with minisign itself.",
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
        """Refuses a signature that is not this key's over that digest; `what` is the file, for the message.

        Raises SignatureError: `bad-signature`, `bad-comment-signature`.
        """
        if not key.key.holds(digest, self.signature):
            raise SignatureError(
                f"verify {what}: it is not what {key.key.name} signed",
                detail="The file or its signature was altered or cut short: get both again.",
                reason="bad-signature",
            )
        if not key.key.holds(self.signature + self.comment.encode(), self.comment_signature):
            raise SignatureError(
                f"verify {what}: the comment in its signature was altered; the file is what {key.key.name} signed",
                detail="Get the signature again.",
                reason="bad-comment-signature",
            )


def show_id(key_id: bytes) -> str:
    """A key's id as minisign shows it: a number, its lowest byte first."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


def _malformed(cause: str) -> SignatureError:
    return SignatureError(
        f"read a minisign signature: {cause}", detail="Get the signature again.", reason="signature-malformed"
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(line: str) -> bytes:
    """The bytes, none if the line is no base64."""
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return b""
