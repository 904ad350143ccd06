"""One deterministic tar archive of a git commit: our own format choices, whatever git or Python is installed.

Names are sorted by their bytes and carry no prefix. Files are 0644 or 0755, directories are left out except where
a submodule would be, owners are 0, times are 1. Headers are ustar; what does not fit there (long names, long
targets, sizes of 8 GiB and more) is in a pax header before them. The archive ends with two zero blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmojo_forge.fetch.sink import Sink

BLOCK = 512
_TIME = 1
_LONGEST_NAME = 100
_LARGEST_SIZE = 0o77777777777


class TarWriter:
    """Writes members in the order given; the caller sorts."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def add_file(self, name: bytes, size: int, content: Iterable[bytes], *, executable: bool) -> None:
        """A regular file; `content` must have exactly `size` bytes."""
        self._header(name, 0o755 if executable else 0o644, b"0", size, b"")
        for chunk in content:
            self._sink.write(chunk)
        self._sink.write(b"\0" * (-size % BLOCK))

    def add_symlink(self, name: bytes, target: bytes) -> None:
        """A symbolic link."""
        self._header(name, 0o777, b"2", 0, target)

    def add_directory(self, name: bytes) -> None:
        """An empty directory."""
        self._header(name + b"/", 0o755, b"5", 0, b"")

    def close(self) -> None:
        """Write the end of the archive."""
        self._sink.write(b"\0" * (2 * BLOCK))

    def _header(self, name: bytes, mode: int, kind: bytes, size: int, target: bytes) -> None:
        records = b""
        if len(name) > _LONGEST_NAME:
            records += _record(b"path", name)
        if len(target) > _LONGEST_NAME:
            records += _record(b"linkpath", target)
        if size > _LARGEST_SIZE:
            records += _record(b"size", str(size).encode())
        if records:
            self._sink.write(_block(b"pax", 0o644, b"x", len(records), b""))
            self._sink.write(records + b"\0" * (-len(records) % BLOCK))
        self._sink.write(_block(name, mode, kind, 0 if size > _LARGEST_SIZE else size, target))


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record, whose own length in decimal stands at its beginning."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _block(name: bytes, mode: int, kind: bytes, size: int, target: bytes) -> bytes:
    fields = (
        name[:_LONGEST_NAME].ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        b"%011o\0" % size,
        b"%011o\0" % _TIME,
        b" " * 8,
        kind,
        target[:_LONGEST_NAME].ljust(100, b"\0"),
        b"ustar\0" + b"00",
        b"\0" * 64,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
    )
    header = b"".join(fields).ljust(BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
