"""The head of a GGUF model (ggml's gguf.cpp, versions 2 and 3): what it is, and whether all of it is there.

    "GGUF"  u32 version  u64 tensors  u64 keys
    keys     text key, u32 type, value         text: u64 length, bytes; array: u32 type, u64 count, values
    tensors  text name, u32 n, n x u64 dimensions, u32 type, u64 offset
    padding to general.alignment (32 if not given), then the tensors' data

Everything is bounded before it is read: a head is some megabytes, and a hostile one must not cost more than that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NoReturn

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.layout import round_up

_HEAD: Final = struct.Struct("<4sIqq")
_MAX_TEXT: Final = 16 << 20
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 20
_MAX_ITEMS: Final = 1 << 24
_MAX_NAME: Final = 64
_MAX_DIMENSIONS: Final = 4
_MAX_HEAD: Final = 1 << 30
_BLOCK: Final = 1 << 18
_DEFAULT_ALIGNMENT: Final = 32
_TEXT: Final = 8
_ARRAY: Final = 9
_SCALARS: Final[Mapping[int, str]] = MappingProxyType(
    {
        **dict(enumerate("BbHhIif?")),
        10: "Q",
        11: "q",
        12: "d",
    }
)
# Names, elements per block and bytes per block of tensor types, from ggml.h and ggml-quants.
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = MappingProxyType(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 36),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
        42: ("Q2_0", 64, 18),
    }
)


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a model file says of itself. `quantization` is the type that most of its bytes have."""

    architecture: str
    kind: str
    name: str
    parameters: int
    quantization: str
    size: int
    split: int
    splits: int


def read_gguf(stream: BinaryIO, start: int, size: int, what: str) -> Gguf:
    """The model in the `size` bytes of `stream` from `start` on.

    Raises ApeError (`ape-model`) for what is no GGUF, is broken, or ends before its tensors do.
    """
    reader = _Reader(stream, start, size, what)
    magic, version, tensors, keys = reader.unpack(_HEAD)
    if magic != b"GGUF":
        reader.refuse("not a GGUF file")
    if version not in {2, 3}:
        other = " (or for machines of another byte order)" if version & 0xFFFF == 0 else ""
        reader.refuse(f"GGUF version {version}; llama.cpp reads 2 and 3{other}")
    if not 0 <= keys <= _MAX_KEYS or not 0 <= tensors <= _MAX_TENSORS:
        reader.refuse(f"{keys} keys and {tensors} tensors cannot be")
    found = _read_keys(reader, keys)
    weights = _read_tensors(reader, tensors)
    alignment = found.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        reader.refuse(f"its alignment is {alignment}, no power of two")
    data = round_up(reader.at, alignment)
    missing = data + weights.end - size
    if tensors and missing > 0:
        reader.refuse(f"cut short: its tensors need {missing} bytes more than the {size} it has", cut=True)
    return Gguf(
        architecture=_text(found, "general.architecture"),
        kind=_text(found, "general.type"),
        name=_text(found, "general.name"),
        parameters=weights.parameters,
        quantization=max(weights.bytes_of, key=lambda name: weights.bytes_of[name], default=""),
        size=size,
        split=_number(found, "split.no"),
        splits=_number(found, "split.count"),
    )


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key, "")
    return value if isinstance(value, str) else ""


def _number(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key, 0)
    return value if isinstance(value, int) else 0


def _read_keys(reader: _Reader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text("a key")
        if key in found:
            reader.refuse(f"two keys are called {key}")
        found[key] = reader.value(reader.number(), key)
    return found


@dataclass(slots=True)
class _Weights:
    """What the tensors come to: where the last one ends, counted from the first, and bytes by type."""

    end: int = 0
    parameters: int = 0
    bytes_of: dict[str, int] = field(default_factory=dict)


def _read_tensors(reader: _Reader, count: int) -> _Weights:
    weights = _Weights()
    seen: set[str] = set()
    for _ in range(count):
        name = reader.text("a tensor's name", _MAX_NAME)
        if name in seen:
            reader.refuse(f"two tensors are called {name}")
        seen.add(name)
        dimensions = reader.number()
        if dimensions > _MAX_DIMENSIONS:
            reader.refuse(f"tensor {name} has {dimensions} dimensions")
        shape = reader.unpack(struct.Struct(f"<{dimensions}q"))
        kind, offset = reader.unpack(struct.Struct("<IQ"))
        elements = 1
        for dimension in shape:
            elements *= dimension
        if any(dimension < 0 for dimension in shape) or elements >= 1 << 63:
            reader.refuse(f"tensor {name} has an impossible shape")
        # A type that is newer than this table takes a byte at least.
        label, block, width = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if shape and shape[0] % block:
            reader.refuse(f"tensor {name} has rows that are no multiple of {block}")
        size = elements // block * width or bool(elements)
        weights.end = max(weights.end, offset + size)
        weights.parameters += elements
        weights.bytes_of[label] = weights.bytes_of.get(label, 0) + size
    return weights


class _Reader:
    """Reads on and on, never beyond the end of the model nor further than any head goes."""

    def __init__(self, stream: BinaryIO, start: int, size: int, what: str) -> None:
        self._stream = stream
        self._start = start
        self._limit = min(size, _MAX_HEAD)
        self._what = what
        self.at = 0
        stream.seek(start)

    def read(self, size: int) -> bytes:
        if size > self._limit - self.at:
            self.refuse("cut short: it ends within its head", cut=True)
        data = self._stream.read(size)
        if len(data) != size:
            self.refuse("cut short: it ends within its head", cut=True)
        self.at += size
        return data

    def unpack(self, record: struct.Struct) -> tuple[Any, ...]:
        return record.unpack(self.read(record.size))

    def number(self) -> int:
        (value,) = self.unpack(struct.Struct("<I"))
        assert isinstance(value, int)
        return value

    def count(self) -> int:
        (value,) = self.unpack(struct.Struct("<Q"))
        assert isinstance(value, int)
        return value

    def text(self, what: str, longest: int = _MAX_TEXT) -> str:
        size = self.count()
        if size > longest:
            self.refuse(f"{what} of {size} bytes")
        return self.read(size).decode("utf-8", "replace")

    def value(self, kind: int, key: str) -> Any:
        """A value that may matter; None for an array, which is passed over."""
        if kind == _ARRAY:
            self._skip_array(key)
            return None
        if kind == _TEXT:
            return self.text(f"the value of {key}")
        if kind not in _SCALARS:
            self.refuse(f"{key} is of the unknown type {kind}")
        return self.unpack(struct.Struct("<" + _SCALARS[kind]))[0]

    def _skip_array(self, key: str) -> None:
        kind, count = self.number(), self.count()
        if count > _MAX_ITEMS or (kind != _TEXT and kind not in _SCALARS):
            self.refuse(f"{key} is an impossible array")
        if kind != _TEXT:
            self._skip(count * struct.calcsize("<" + _SCALARS[kind]))
            return
        self._skip_texts(count, key)

    def _skip_texts(self, count: int, key: str) -> None:
        """Passes over texts by the block, not one by one: a vocabulary has hundreds of thousands."""
        data, at, base = b"", 0, self.at
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > len(data):
                base += at
                self._skip(base - self.at)
                data, at = self._stream.read(min(_BLOCK, self._limit - base)), 0
                self._stream.seek(self._start + base)
                if len(data) < 8:
                    self.refuse("cut short: it ends within its head", cut=True)
            (size,) = unpack(data, at)
            if size > _MAX_TEXT:
                self.refuse(f"{key} has a text of {size} bytes")
            at += 8 + size
        self._skip(base + at - self.at)

    def _skip(self, size: int) -> None:
        if size > self._limit - self.at:
            self.refuse("cut short: it ends within its head", cut=True)
        self.at += size
        self._stream.seek(self._start + self.at)

    def refuse(self, cause: str, *, cut: bool = False) -> NoReturn:
        detail = "Download it again, or look at where it was copied from." if cut else ""
        raise ApeError(f"model {self._what}: {cause}", detail=detail, reason=ApeReason.MODEL)
