"""Joining the arguments of several places into one command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def join(files: Iterable[Sequence[bytes | None]], command_line: Sequence[bytes]) -> list[bytes]:
    """All arguments, weakest first. `files` stand nearest first; None is the mark `...` in one of them."""
    joined = list(command_line)
    for arguments in files:
        at = arguments.index(None) if None in arguments else len(arguments)
        before, behind = arguments[:at], arguments[at + 1 :]
        joined = [*_given(before), *joined, *_given(behind)]
    return joined


def _given(arguments: Iterable[bytes | None]) -> list[bytes]:
    return [one for one in arguments if one is not None]
