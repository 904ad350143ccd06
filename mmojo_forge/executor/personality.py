"""The personality of builds (personality(2)): which ways of the kernel they meet, and where their memory lies.

Where it lies is not left to chance, as in Nix's sandbox: a compiler that sorts by address, as NVIDIA's cicc does, makes
other code each time otherwise.
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
"""What builds have, whatever forge was started with."""

_ASK = 0xFFFFFFFF
_LIBC = ctypes.CDLL(None, use_errno=True)


def take_on(flags: int) -> str:
    """Give these flags to this thread and all that it starts; says why the kernel did not, or nothing.

    A container's system call filter may forbid it: Docker's does, unless it is told otherwise.
    """
    if _LIBC.personality(ctypes.c_ulong(flags)) == -1:
        return os.strerror(ctypes.get_errno())
    return ""


@contextmanager
def taken_on(flags: int) -> Iterator[str]:
    """What this thread starts meanwhile has these flags, unless the kernel forbids it; yields why, as `take_on`."""
    before = _LIBC.personality(ctypes.c_ulong(_ASK))
    why = take_on(flags)
    try:
        yield why
    finally:
        take_on(before)
