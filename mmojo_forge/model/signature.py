"""Ed25519 signatures (RFC 8032) by named keys, and DSSE envelopes around signed statements.

The text of a key is `NAME:BASE64`: the public key's 32 bytes, or the private key's seed. The name is for people; forge
compares only the bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mmojo_forge.errors import ForgeError

STATEMENT_TYPE = "application/vnd.in-toto+json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_KEY_BYTES = 32


class SignatureError(ForgeError):
    """A key is malformed, or a signature is wrong or by an unknown key."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: a name and 32 bytes."""

    name: str
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key in NAME:BASE64; raises SignatureError (`bad-key`)."""
        return cls(*_parse(text, "public key"))

    def __str__(self) -> str:
        return f"{self.name}:{self.text}"

    @property
    def text(self) -> str:
        """The key without its name, in base64."""
        return _encode(self.key)

    def holds(self, payload: bytes, signature: bytes) -> bool:
        """Whether this key made the signature over the payload."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, payload)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key: a name and a seed of 32 bytes, which no message may show."""

    name: str
    _seed: bytes

    @classmethod
    def generate(cls, name: str = "") -> PrivateKey:
        """A new key. Without a name, it is named after its public key. Raises SignatureError (`bad-key`)."""
        seed = Ed25519PrivateKey.generate().private_bytes_raw()
        key = cls(name or "builder", seed)
        return cls(*_parse(f"{name or 'builder-' + key.public.key[:4].hex()}:{_encode(seed)}", "private key"))

    @classmethod
    def parse(cls, text: str) -> PrivateKey:
        """The key in NAME:BASE64; raises SignatureError (`bad-key`)."""
        return cls(*_parse(text, "private key"))

    def dump(self) -> str:
        """The key as NAME:BASE64, for a file that nobody else may read."""
        return f"{self.name}:{_encode(self._seed)}"

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to this key."""
        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw())

    def sign(self, payload: bytes) -> bytes:
        """The signature over the payload, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self._seed).sign(payload)


def seal(statement: bytes, key: PrivateKey) -> str:
    """The statement in a signed envelope: one line of JSON, after DSSE 1.0 (secure-systems-lab/dsse)."""
    signature = {"keyid": str(key.public), "sig": _encode(key.sign(_authenticated(STATEMENT_TYPE, statement)))}
    return json.dumps({"payloadType": STATEMENT_TYPE, "payload": _encode(statement), "signatures": [signature]})


def unseal(envelope: str, trusted: Iterable[PublicKey]) -> tuple[bytes, PublicKey]:
    """The statement of a DSSE envelope and the trusted key that signed it.

    Raises SignatureError: `envelope-malformed`, `unknown-signer`, `bad-signature`.
    """
    payload_type, payload, signatures = _open(envelope)
    known = {key.key: key for key in trusted}
    signers = [(known.get(PublicKey.parse(name).key), value) for name, value in signatures]
    ours = [(key, value) for key, value in signers if key is not None]
    if not ours:
        names = ", ".join(name.partition(":")[0] for name, _ in signatures) or "nobody"
        raise SignatureError(
            f"open a signed statement: it is signed by {names}, and you trust none of these keys",
            detail="Get the key from its owner, then trust it with `forge cache key trust NAME:KEY`.",
            reason="unknown-signer",
        )
    for key, value in ours:
        if key.holds(_authenticated(payload_type, payload), value):
            return payload, key
    raise SignatureError(
        f"open a signed statement: the signature of {ours[0][0].name} is wrong; somebody altered the statement",
        reason="bad-signature",
    )


def _open(envelope: str) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    try:
        document = json.loads(envelope)
        signatures = [(str(row["keyid"]), _decode(row["sig"])) for row in document["signatures"]]
        return str(document["payloadType"]), _decode(document["payload"]), signatures
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureError(
            "open a signed statement: it is not a DSSE envelope", detail=repr(error), reason="envelope-malformed"
        ) from error


def _authenticated(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers (DSSE's pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _parse(text: str, what: str) -> tuple[str, bytes]:
    name, _, encoded = text.strip().partition(":")
    try:
        key = _decode(encoded)
    except ValueError:
        key = b""
    if not _NAME.fullmatch(name) or len(key) != _KEY_BYTES:
        raise SignatureError(f"read a {what}: it is not NAME:BASE64 of {_KEY_BYTES} bytes", reason="bad-key")
    return name, key


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
