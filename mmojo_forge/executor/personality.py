"""The personality of builds (personality(2)), which controls details of the kernel's behaviour.

Builds run without address space randomisation, as in Nix's sandbox: with it, a compiler that sorts by address, such as
NVIDIA's cicc, generates different code each time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

ADDR_NO_RANDOMIZE = 0x0040000
ADDR_COMPAT_LAYOUT = 0x0200000
STICKY_TIMEOUTS = 0x4000000

USUAL = ADDR_NO_RANDOMIZE
"""The personality of every build, regardless of forge's own."""

_ASK = 0xFFFFFFFF
_LIBC = ctypes.CDLL(None, use_errno=True)


def take_on(flags: int) -> str:
    """Set the flags for this thread and its future children; returns the kernel's refusal, or "".

    A container's system call filter may forbid this. Docker's default filter does.
    """
    if _LIBC.personality(ctypes.c_ulong(flags)) == -1:
        return os.strerror(ctypes.get_errno())
    return ""


@contextmanager
def taken_on(flags: int) -> Iterator[str]:
    """Set the flags during the context, for children that this thread starts; yields the result of `take_on`."""
    before = _LIBC.personality(ctypes.c_ulong(_ASK))
    why = take_on(flags)
    try:
        yield why
    finally:
        take_on(before)
