"""Identifiers: BLAKE3 is the identity of everything, written as 64 lower-case hexadecimal digits."""

from __future__ import annotations

import re
from typing import NewType

from blake3 import blake3

BlobDigest = NewType("BlobDigest", str)
"""BLAKE3 of a file's content."""

TreeId = NewType("TreeId", str)
"""BLAKE3 of a tree's canonical manifest."""

DerivationId = NewType("DerivationId", str)
"""BLAKE3 of a derivation whose inputs are named by *their* derivation ids: known before anything is built."""

ActionKey = NewType("ActionKey", str)
"""BLAKE3 of a derivation whose inputs are named by the tree ids they were built to."""

Sha256 = NewType("Sha256", str)
"""SHA-256 of a file's content: what OCI, indexes and most remote-execution servers speak."""

HEX_LENGTH = 64
_HEX = re.compile(r"[0-9a-f]{64}")


def blake3_hex(data: bytes) -> str:
    """BLAKE3 of `data` in hexadecimal."""
    return blake3(data).hexdigest()


def is_hex_digest(text: str) -> bool:
    """Whether `text` could be any of the identifiers above."""
    return _HEX.fullmatch(text) is not None
