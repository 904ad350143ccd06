"""The arguments that packaging writes before the user's own, in one file with them.

    # Made by `forge package`. Below the dashes stand the arguments that were given; they are stronger.
    --model /zip/model.gguf
    # ------------------------------------------------------------------------------------------------
    the user's file, as it was

Packaging recognises these lines again, so that a packaged program can be packaged once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mmojo_forge.ape.arguments import plain
from mmojo_forge.ape.arguments.plain import BOM
from mmojo_forge.ape.errors import ArgumentsError

NAME: Final = "mmojo-server-args"
YAML_NAME: Final = "mmojo-server-args.yaml"
_FIRST: Final = b"# Made by `forge package`. Below the dashes stand the arguments that were given; they are stronger.\n"
_LAST: Final = b"# " + b"-" * 96 + b"\n"


def encode_head(options: Sequence[tuple[str, str]], given: bytes = b"") -> bytes:
    """The file: one line for each option and its value, then what was given."""
    lines = b"".join(f"{option} {plain.quote(value)}\n".encode() for option, value in options)
    head = _FIRST + lines if options else b""
    if not given:
        return head
    return head + (_LAST if head else b"") + given.removeprefix(BOM)


def split_head(data: bytes) -> tuple[Mapping[str, str], bytes]:
    """The options that packaging wrote, and what was given; all of a file that it did not write was given."""
    if not data.startswith(_FIRST):
        return {}, data
    head, last, given = data.partition(_LAST)
    try:
        words = plain.expand(plain.parse_plain(head, NAME), {}, NAME)
    except ArgumentsError:
        return {}, data
    texts = [word.decode("utf-8", "replace") for word in words if word is not None]
    return dict(zip(texts[::2], texts[1::2], strict=False)), given if last else b""
