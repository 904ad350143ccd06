"""GGUF models made of bytes, for tests: heads that are right, weights that are zeros or what they are told."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

Tensor = tuple[str, tuple[int, ...], int]
Value = str | int | float | list[str] | list[int]
WEIGHTS: Sequence[Tensor] = (("token_embd.weight", (32, 64), 8), ("output.weight", (32, 8), 0))
_WIDTHS = {0: (1, 4), 8: (32, 34)}


def text(value: str) -> bytes:
    """A text as GGUF has it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def encode_value(value: Value) -> bytes:
    """A value behind its type."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(one)) for one in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def make_head(
    architecture: str = "llama",
    tensors: Sequence[Tensor] = WEIGHTS,
    values: Mapping[str, Value] | None = None,
    *,
    version: int = 3,
) -> tuple[bytes, int]:
    """The head, padded to where data begins, and how many bytes of data follow it."""
    keys: dict[str, Value] = {
        **({"general.architecture": architecture} if architecture else {}),
        "general.name": "sample",
        "tokenizer.ggml.tokens": ["a", "b" * 5000, "ü"],
        "tokenizer.ggml.token_type": [1, 2, 3],
        **(values or {}),
    }
    data = struct.pack("<4sIqq", b"GGUF", version, len(tensors), len(keys))
    data += b"".join(text(key) + encode_value(value) for key, value in keys.items())
    end = 0
    for name, shape, kind in tensors:
        data += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
        data += struct.pack("<IQ", kind, end)
        count = 1
        for one in shape:
            count *= one
        block, width = _WIDTHS[kind]
        end += -(-(count // block * width) // 32) * 32
    return data.ljust(-(-len(data) // 32) * 32, b"\0"), end


def make_gguf(fill: bytes = b"\1\2\3\4", **more: object) -> bytes:
    """A whole model."""
    head, size = make_head(**more)  # type: ignore[arg-type]
    return head + (fill * (size // len(fill) + 1))[:size]


def write_sparse(path: Path, size: int) -> Path:
    """A model of about `size` bytes, nearly all of them a hole."""
    head, data = make_head(tensors=[("blk.0.weight", (1 << 20, size >> 22), 0)])
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + data)
        stream.seek(-4, 2)
        stream.write(b"end.")
    return path
