"""How far long work is, in one line on stderr: drawn over and over on a terminal, now and then elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from mmojo_forge.cli import units

_TERMINAL_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Meter:
    """Tells bytes done of bytes in all. Silent where the work is over before there is anything to tell."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._terminal = stream.isatty()
        self._last = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is."""
        percent = f"{100 * done // total} %" if total else ""
        self._say(f"{self._what}: {units.size(done)} of {units.size(total)} {percent}")

    def count(self, done: int) -> None:
        """Say how far it is where nobody knows how far it goes."""
        self._say(f"{self._what}: {units.size(done)}")

    def wait(self, seconds: float) -> None:
        """Say that another process has to end first."""
        if seconds > 1:
            self._say(f"{self._what}: waiting for another process that maintains the store")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last < (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            return
        self._last = now
        if self._terminal:
            self._drawn = True
            self._stream.write(f"\r\033[K{text}")
        else:
            self._stream.write(f"forge: {text}\n")
        self._stream.flush()
