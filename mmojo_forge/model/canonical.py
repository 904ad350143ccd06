"""Canonical JSON: the bytes that every id and key hashes (RFC 8785, the JSON Canonicalization Scheme).

The subset used here has no floating-point numbers. Object keys are ASCII, so ordering by code point is the same as
ordering by UTF-16 code unit (section 3.2.3 of the RFC).
Forge has its own encoder because every key and id depends on its bytes: a library upgrade must never change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring

from mmojo_forge.errors import ForgeError

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]

# RFC 8785 prescribes IEEE 754 doubles, which are not exact beyond this.
_LARGEST_INTEGER = 2**53 - 1


class CanonicalError(ForgeError):
    """RFC 8785, or our subset of it, cannot express the value."""


def encode(value: Json) -> bytes:
    """The canonical UTF-8 bytes of `value`; raises CanonicalError for anything outside the JSON subset above."""
    return to_bytes(text(value))


def to_bytes(canonical: str) -> bytes:
    """The UTF-8 bytes of canonical text; raises CanonicalError (`canonical-surrogate`)."""
    try:
        return canonical.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalError(f"encode text as UTF-8: {error.reason}", reason="canonical-surrogate") from error


def template(*keys: str) -> str:
    """A `%` format for objects with these keys. It takes the canonical text of each value in turn.

    It is fast enough for hundreds of thousands of objects. Raises CanonicalError unless the keys are in order.
    """
    if list(keys) != _ordered(keys):
        message = f"make a template for keys {', '.join(keys)}: they are not in canonical order"
        raise CanonicalError(message, reason="canonical-key")
    return object_of(dict.fromkeys(keys, "%s"))


def object_of(members: Mapping[str, str]) -> str:
    """The canonical text of an object, given the texts of its values; raises CanonicalError (`canonical-key`)."""
    return f"{{{','.join([f'{encode_basestring(key)}:{members[key]}' for key in _ordered(members)])}}}"


def text(value: Json) -> str:
    """The canonical text of `value`; raises CanonicalError as `encode` does, except for surrogates."""
    # Exact types first: almost all values have one, and this runs millions of times for a large graph.
    kind = type(value)
    if kind is str:
        return encode_basestring(value)  # type: ignore[arg-type]
    if kind is dict:
        return _object(value)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        return _array(value)  # type: ignore[arg-type]
    return _other_text(value)


def _other_text(value: Json) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, (list, tuple)):
        return _array(value)
    message = f"encode a {type(value).__name__}: canonical JSON has no such type"
    raise CanonicalError(message, reason="canonical-type")


def _array(value: Sequence[Json]) -> str:
    return f"[{','.join([encode_basestring(item) if type(item) is str else text(item) for item in value])}]"


def _object(value: Mapping[str, Json]) -> str:
    if not value:
        return "{}"
    return f"{{{','.join([f'{encode_basestring(key)}:{text(value[key])}' for key in _ordered(value)])}}}"


def _ordered(keys: Iterable[str]) -> list[str]:
    try:
        ordered = sorted(keys)
        ascii_only = "".join(ordered).isascii()
    except TypeError as error:
        raise CanonicalError("encode an object: a key is not a string", reason="canonical-key") from error
    if not ascii_only:
        raise CanonicalError("encode an object: a key is not ASCII", reason="canonical-key")
    return ordered


def _integer(value: int) -> str:
    if abs(value) > _LARGEST_INTEGER:
        raise CanonicalError(f"encode {value}: its absolute value exceeds 2**53 - 1", reason="canonical-integer")
    return str(int(value))
