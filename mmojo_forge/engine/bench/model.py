"""Is a file a whole GGUF model? Asked before minutes are spent on measuring with it.

llama-bench says of a bad model only that it cannot load it. Its layout (version 3, little-endian):

    "GGUF" version tensors facts | fact … | tensor …          | padding | data
                                   key,     name, dimensions,             each tensor at its offset
                                   type,    type, offset
                                   value
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mmojo_forge.engine.errors import EngineError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
_HEADER: Final = struct.Struct("<4sIQQ")
_DEFAULT_ALIGNMENT: Final = 32
_UINT32, _STRING, _ARRAY = 4, 8, 9
# Size in bytes of a fact's value, by its type.
_FACT_BYTES: Mapping[int, int] = MappingProxyType(
    {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8},
)
# Weights and bytes of one block, by a tensor's type: ggml's `type_traits` of the types that files hold.
_BLOCKS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {
        **{0: (1, 4), 1: (1, 2), 30: (1, 2)},  # F32, F16, BF16
        **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)},  # Q4_0 … Q8_1
        **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)},  # Q2_K … Q6_K
        **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18)},  # IQ2_XXS … IQ4_NL
        **{21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56)},  # IQ3_S … IQ1_M
        **{24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8)},  # integers, F64
        **{34: (256, 54), 35: (256, 66), 39: (32, 17)},  # TQ1_0, TQ2_0, MXFP4
    }
)


class ModelError(EngineError):
    """A model file that cannot be used: `no-model`, `model-unreadable` or `bad-model`."""


def check_model(path: Path) -> None:
    """Return if `path` is a whole GGUF file; raises ModelError. Reads the header, not the weights."""
    if not path.is_file():
        raise ModelError(
            f"read model {path}: there is no such file",
            detail="Give a GGUF file with --model, or none for a model of random weights.",
            reason="no-model",
        )
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < _HEADER.size:
                raise _bad(path, f"{size} bytes are no GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check(path, _Cursor(path, content))
    except OSError as error:
        raise ModelError(
            f"read model {path}: {error.strerror}", detail="Check its permissions.", reason="model-unreadable"
        ) from error


class _Cursor:
    """Reads the header from front to back; every step past the end raises ModelError."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self.position = 0

    @property
    def size(self) -> int:
        return len(self._content)

    def skip(self, count: int) -> int:
        """Where the next `count` bytes begin; the cursor stands behind them now."""
        start = self.position
        if start + count > self.size:
            raise _bad(self._path, f"it ends within its header, after {self.size} bytes")
        self.position += count
        return start

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "little")

    def string(self) -> bytes:
        return self._take(self.uint64())

    def value(self, kind: int) -> int | None:
        """The value of a fact if it is a number of 32 bits; what else there is is skipped."""
        if kind == _UINT32:
            return self.uint32()
        if kind == _STRING:
            self.skip(self.uint64())
        elif kind == _ARRAY:
            self._skip_array()
        else:
            self.skip(self._fact_bytes(kind))
        return None

    def _skip_array(self) -> None:
        kind, count = self.uint32(), self.uint64()
        if kind != _STRING:
            self.skip(self._fact_bytes(kind) * count)
            return
        for _ in range(count):
            self.skip(self.uint64())

    def _fact_bytes(self, kind: int) -> int:
        if kind not in _FACT_BYTES:
            raise _bad(self._path, f"its header has a value of the unknown type {kind}")
        return _FACT_BYTES[kind]

    def _take(self, count: int) -> bytes:
        start = self.skip(count)
        return self._content[start : start + count]


def _check(path: Path, cursor: _Cursor) -> None:
    magic = cursor.uint32().to_bytes(4, "little")
    if magic != MAGIC:
        raise _bad(path, f"it begins with {magic!r}, a GGUF file with {MAGIC!r}")
    version = cursor.uint32()
    if version not in VERSIONS:
        raise _bad(path, f"its GGUF version is {version}, and llama.cpp reads {' and '.join(map(str, VERSIONS))}")
    tensors, facts = cursor.uint64(), cursor.uint64()
    alignment = _read_alignment(cursor, facts) or _DEFAULT_ALIGNMENT
    if not tensors:
        raise _bad(path, "it has no weights, only a vocabulary or other facts")
    end = max(_tensor_ends(cursor, tensors))
    start = -(-cursor.position // alignment) * alignment
    if start + end > cursor.size:
        raise _bad(path, f"it is truncated: its weights end at byte {start + end}, the file at {cursor.size}")


def _read_alignment(cursor: _Cursor, facts: int) -> int | None:
    alignment = None
    for _ in range(facts):
        key, kind = cursor.string(), cursor.uint32()
        value = cursor.value(kind)
        if key == b"general.alignment":
            alignment = value
    return alignment


def _tensor_ends(cursor: _Cursor, tensors: int) -> Iterator[int]:
    """Where each tensor ends, in bytes after the start of the data; of unknown types, where it begins."""
    for _ in range(tensors):
        cursor.string()
        weights = 1
        for _ in range(cursor.uint32()):
            weights *= cursor.uint64()
        block, size = _BLOCKS.get(cursor.uint32(), (1, 0))
        yield cursor.uint64() + weights // block * size


def _bad(path: Path, cause: str) -> ModelError:
    return ModelError(
        f"read model {path}: {cause}",
        detail="Fetch the file again, or convert the model to GGUF with llama.cpp's converters.",
        reason="bad-model",
    )
