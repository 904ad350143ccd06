"""What a GPU module, or a program that loads some, says of itself: an ELF note (System V gABI, chapter 5, "Notes").

owner "mmojo", type 1; its text has a line KEY=VALUE for each fact:
  ggml     what ggml's headers hash to: a module fits programs of the same value only
  needs    the library of the driver, empty for a program
  driver   the least that the driver must be; not there if it does not matter
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mmojo_forge.ape import content, elf
from mmojo_forge.ape.error import ApeError, ApeReason

_PT_NOTE: Final = 4
_HEAD: Final = struct.Struct("<III")
_OWNER: Final = b"mmojo\0"
_LARGEST: Final = 1 << 16
_HEADERS: Final = 1 << 14


def read_note(path: Path, what: str) -> dict[str, str]:
    """The facts, empty where there is no such note; raises ApeError (`ape-module`, `ape-input`)."""
    with content.open_input(path, what) as stream:
        image = elf.parse_elf(stream.read(_HEADERS), f"{what} {path}", ApeReason.MODULE)
        for segment in image.segments:
            if segment.kind == _PT_NOTE and segment.file_size <= _LARGEST:
                text = _find(_read(stream, segment.offset, segment.file_size, f"{what} {path}"))
                if text:
                    return _parse(text)
    return {}


def _read(stream: BinaryIO, offset: int, size: int, what: str) -> bytes:
    end = os.fstat(stream.fileno()).st_size
    if offset > end or size > end - offset:
        raise ApeError(f"{what}: it ends too early", reason=ApeReason.MODULE)
    stream.seek(offset)
    return stream.read(size)


def _find(data: bytes) -> bytes:
    return next((text for owner, kind, text in _notes(data) if owner == _OWNER and kind == 1), b"")


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        owner_size, text_size, kind = _HEAD.unpack_from(data, at)
        owner = at + _HEAD.size
        text = owner + (owner_size + 3) // 4 * 4
        yield data[owner : owner + owner_size], kind, data[text : text + text_size]
        at = text + (text_size + 3) // 4 * 4


def _parse(text: bytes) -> dict[str, str]:
    lines = text.rstrip(b"\0").decode(errors="replace").splitlines()
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}
