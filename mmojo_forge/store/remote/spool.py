"""The partial area: chunks that arrived and were verified, kept until the tree they belong to is complete.

Each thread appends to a file of its own: BLAKE3 (32 bytes), length (4 bytes, little endian), frame; and again. What a
killed process left is read by the next one; a record that is cut off is where reading stops, and every chunk is
verified once more when it is used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from mmojo_forge.store.remote.chunking import CHUNK_MOST
from mmojo_forge.store.remote.codec import longest_frame
from mmojo_forge.store.remote.failure import CacheError, Fault

_SUFFIX = ".spool"
_HEADER = 36


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    offset: int
    length: int


class Spool:
    """A folder that belongs to one fetch at a time. Raises CacheError (`cache-io`) where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local = threading.local()
        self._open: list[int] = []
        self._lock = threading.Lock()
        self._found: dict[str, _Place] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                self._scan(str(path))
        except OSError as error:
            raise self._failed(error) from error

    def __contains__(self, digest: object) -> bool:
        return digest in self._found

    def get(self, digest: str) -> bytes:
        """The frame that was kept, or as much as there is of it."""
        place = self._found[digest]
        with contextlib.suppress(OSError), open(place.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), place.length, place.offset)
        return b""

    def add(self, digest: str, frame: bytes) -> None:
        """Keep the frame of a verified chunk."""
        try:
            fd = self._own()
            os.writev(fd, [bytes.fromhex(digest), len(frame).to_bytes(4, "little"), frame])
        except OSError as error:
            raise self._failed(error) from error

    def close(self, *, remove: bool) -> None:
        """Close the files; with `remove`, they have done their duty."""
        with self._lock:
            for fd in self._open:
                os.close(fd)
            self._open.clear()
        if remove:
            with contextlib.suppress(OSError):
                for path in self._folder.glob(f"*{_SUFFIX}"):
                    path.unlink()

    def _own(self) -> int:
        fd: int | None = getattr(self._local, "fd", None)
        if fd is None:
            path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._local.fd = fd
            with self._lock:
                self._open.append(fd)
        return fd

    def _scan(self, path: str) -> None:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            at = 0
            while len(header := file.read(_HEADER)) == _HEADER:
                length = int.from_bytes(header[32:], "little")
                if not 0 < length <= longest_frame(CHUNK_MOST) or at + _HEADER + length > end:
                    return
                self._found[header[:32].hex()] = _Place(path, at + _HEADER, length)
                at += _HEADER + length
                file.seek(at)

    def _failed(self, error: OSError) -> CacheError:
        message = f"keep a download in {self._folder}: {error.strerror or error}"
        return CacheError(message, reason="cache-io", fault=Fault.FAILING)
