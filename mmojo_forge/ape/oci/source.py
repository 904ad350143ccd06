"""Where bytes come from: they are read once to be measured, perhaps again to be written, and never held whole."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mmojo_forge.ape import content
from mmojo_forge.ape.copying import OnProgress
from mmojo_forge.ape.oci.error import OciError, OciReason


class Source(Protocol):
    """Bytes that can be had again and again, the same each time."""

    @property
    def size(self) -> int:
        """How many they are."""

    def chunks(self) -> Iterator[bytes]:
        """All of them, in pieces that fit in memory."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        yield self.data


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of a file from `offset` on. With `crc`, reading them fails at the end if they are others."""

    path: Path
    offset: int
    size: int
    crc: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The bytes; raises OciError (`oci-changed`), ApeError (`ape-input`)."""
        crc, left = 0, self.size
        with content.open_input(self.path, "image") as stream:
            stream.seek(self.offset)
            for chunk in content.read_chunks(stream, self.size):
                left -= len(chunk)
                crc = zlib.crc32(chunk, crc) if self.crc is not None else 0
                yield chunk
        if left or (self.crc is not None and crc != self.crc):
            raise OciError(
                f"read {self.path}: it is damaged, or changed while it was read",
                detail="`forge ape inspect` says which; get it again.",
                reason=OciReason.CHANGED,
            )


def whole_file(path: Path) -> FilePart:
    """All bytes of the file at `path`; raises ApeError (`ape-input`)."""
    with content.open_input(path, "image") as stream:
        return FilePart(path, 0, stream.seek(0, 2))


@dataclass(slots=True)
class Hashed:
    """Bytes of another source whose SHA-256 is known once they have all been read."""

    source: Source
    sha256: str = field(default="", init=False)

    @property
    def size(self) -> int:
        """How many they are."""
        return self.source.size

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        sha256 = hashlib.sha256()
        for chunk in self.source.chunks():
            sha256.update(chunk)
            yield chunk
        self.sha256 = sha256.hexdigest()


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of another source, each time they are read told to `on_progress`."""

    source: Source
    on_progress: OnProgress

    @property
    def size(self) -> int:
        """How many bytes they are."""
        return self.source.size

    def chunks(self) -> Iterator[bytes]:
        """They themselves."""
        for chunk in self.source.chunks():
            self.on_progress(len(chunk))
            yield chunk
