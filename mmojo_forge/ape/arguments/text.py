"""The text of a file of arguments: what both forms of it have in common."""

from __future__ import annotations

from typing import Final

from mmojo_forge.ape.arguments.error import ArgumentsError, Fault

MAX_SIZE: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"


def decode_text(data: bytes, file: str) -> str:
    """The characters of `data` without a byte order mark at their start; raises ArgumentsError."""
    if len(data) > MAX_SIZE:
        raise ArgumentsError(file, 1, Fault.SIZE, "larger than 1 MiB: that is no file of arguments")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ArgumentsError(file, line, Fault.ENCODING, "not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise ArgumentsError(file, text.count("\n", 0, text.index("\0")) + 1, Fault.NUL, "a NUL byte")
    return text.removeprefix("\ufeff")
