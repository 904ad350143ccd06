"""Identifiers: BLAKE3 digests, written as 64 lower-case hexadecimal digits.

They are distinct types, so that mypy finds a tree id that is used as a blob digest.
"""

from __future__ import annotations

import re
from typing import NewType

from blake3 import blake3

BlobDigest = NewType("BlobDigest", str)
"""BLAKE3 of a file's content."""

TreeId = NewType("TreeId", str)
"""BLAKE3 of a tree's canonical manifest."""

DerivationId = NewType("DerivationId", str)
"""BLAKE3 of a derivation that names its inputs by *their* derivation ids. It is known before anything is built."""

ActionKey = NewType("ActionKey", str)
"""BLAKE3 of a derivation that names its inputs by the ids of the trees they were built to."""

Sha256 = NewType("Sha256", str)
"""SHA-256 of a file's content: the digest that OCI, package indexes and most remote-execution servers use."""

_HEX = re.compile(r"[0-9a-f]{64}")


def blake3_hex(data: bytes) -> str:
    """BLAKE3 of `data` in hexadecimal."""
    return blake3(data).hexdigest()


def is_hex_digest(text: str) -> bool:
    """Whether `text` has the form of these identifiers."""
    return _HEX.fullmatch(text) is not None
