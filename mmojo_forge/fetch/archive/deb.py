"""Debian binary packages: an ar archive of `debian-binary`, `control.tar.*` and `data.tar.*`, see deb(5).

Only where the data lies is looked up here. Control files (maintainer scripts among them) are never read, let alone run.
"""

from __future__ import annotations

import os
import re

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason

MAGIC = b"!<arch>\n"
_HEADER = 60
_MAX_MEMBERS = 64
_DIGITS = re.compile(rb"([0-9]{1,10}) *")


def find_data(descriptor: int, size: int) -> tuple[int, int]:
    """Offset and length of the data archive of a package that is `size` bytes long."""
    offset, names = len(MAGIC), list[str]()
    data: tuple[int, int] | None = None
    while offset < size:
        name, length = _header(os.pread(descriptor, _HEADER, offset))
        start = offset + _HEADER
        if start + length > size:
            raise ArchiveError(f"{name}: the package ends early", reason=Reason.TRUNCATED)
        if not names:
            _check_version(name, os.pread(descriptor, min(length, 16), start))
        elif name == "data.tar" or name.startswith("data.tar."):
            if data is not None:
                raise ArchiveError(f"{name}: a second data archive", reason=Reason.DUPLICATE)
            data = (start, length)
        names.append(name)
        if len(names) > _MAX_MEMBERS:
            raise ArchiveError(f"more than {_MAX_MEMBERS} members in a package", reason=Reason.TOO_MANY)
        offset = start + length + length % 2
    if data is None:
        raise ArchiveError("no data archive in the package", reason=Reason.TRUNCATED)
    return data


def _header(block: bytes) -> tuple[str, int]:
    if len(block) < _HEADER:
        raise ArchiveError("the package ends early", reason=Reason.TRUNCATED)
    match = _DIGITS.fullmatch(block[48:58])
    if block[58:60] != b"`\n" or not match:
        raise ArchiveError("a malformed ar header", reason=Reason.CORRUPT)
    return block[:16].decode("ascii", "replace").rstrip(" ").removesuffix("/"), int(match[1])


def _check_version(name: str, content: bytes) -> None:
    if name != "debian-binary":
        raise ArchiveError("an ar archive that is no Debian package", reason=Reason.UNSUPPORTED)
    if not content.startswith(b"2."):
        raise ArchiveError(f"Debian package format {content!r}", reason=Reason.UNSUPPORTED)
