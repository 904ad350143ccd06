"""Where produced bytes go."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Takes bytes as they come."""

    def write(self, chunk: bytes, /) -> object:
        """Append."""
