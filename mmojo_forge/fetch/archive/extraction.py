"""Unpacks archives into a directory: detects the format, parses entries, places the names, writes the tree.

        tar[.gz|.xz|.zst|.bz2] ─┐
    deb ── data.tar.* ──────────┴─▶ Member ─▶ Unpacking ─▶ TreeWriter    as the stream goes by
    zip ── central directory ─▶ [ZipEntry] ─▶ plan, checked as a whole ─▶ TreeWriter in several threads

`extract`, `extract_all` and `extract_each` are the entry points. After an ArchiveError the destination may hold a part
of the content, but forge has written nothing outside it.

Debian binary packages are ar archives of `debian-binary`, `control.tar.*` and `data.tar.*`; see deb(5). `find_data`
locates the data archive. forge never reads control files, and so runs no maintainer scripts.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from mmojo_forge.errors import ExitCode
from mmojo_forge.fetch.archive import codec, tar
from mmojo_forge.fetch.archive import zip as zip_format
from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import MIB, ArchiveLimits, ExtractOptions, ExtractReport, UnpackBudget
from mmojo_forge.fetch.archive.stream import ByteSource, ReadAhead, file_chunks
from mmojo_forge.fetch.archive.unpacking import Unpacking, unpack_zip
from mmojo_forge.fetch.archive.writer import ArchiveTreeWriter

MAGIC = b"!<arch>\n"
_HEADER = 60
_MAX_MEMBERS = 64
_DIGITS = re.compile(rb"([0-9]{1,10}) *")


def find_data(descriptor: int, size: int) -> tuple[int, int]:
    """Offset and length of the data archive in a Debian package of `size` bytes; raises ArchiveError."""
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
        offset = start + length + length % 2  # ar pads members to even offsets
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
        raise ArchiveError("an ar archive that is not a Debian package", reason=Reason.UNSUPPORTED)
    if not content.startswith(b"2."):
        raise ArchiveError(f"Debian package format {content!r} is not supported", reason=Reason.UNSUPPORTED)


READ_AHEAD = 8 * MIB
READ_AHEAD_NEXT = 64 * MIB
_HEAD_BYTES = 512
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_DESTINATION = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(archive: Path, destination: Path, options: ExtractOptions | None = None) -> ExtractReport:
    """Unpack an archive into a directory, which is made if it is missing; raises ArchiveError."""
    options = options or ExtractOptions()
    with _refusing(archive), _open_destination(destination) as root, _Archive(archive, options.limits) as opened:
        return _unpack(opened, root, options)


def extract_all(
    archives: Sequence[Path], destination: Path, options: ExtractOptions | None = None
) -> list[ExtractReport]:
    """Unpack archives one after the other into one directory, and decompress the next ones meanwhile.

    The result is that of `extract` for each of them in this order. Up to nine archives are open at a time, and each
    holds at most 64 MiB of decompressed data in memory.
    """
    options = options or ExtractOptions()
    return extract_each([(archive, options) for archive in archives], destination)


def extract_each(archives: Iterable[tuple[Path, ExtractOptions]], destination: Path) -> list[ExtractReport]:
    """Like `extract_all`, with separate options for each archive."""
    ahead = max(1, min(os.cpu_count() or 1, 8))
    waiting, opened = deque(archives), deque[tuple[_Archive, ExtractOptions]]()
    reports = list[ExtractReport]()
    try:
        while waiting or opened:
            while waiting and len(opened) <= ahead:
                path, options = waiting.popleft()
                with _refusing(path):
                    opened.append((_Archive(path, options.limits, read_ahead=READ_AHEAD_NEXT), options))
            current, options = opened[0]
            with current, _refusing(current.path), _open_destination(destination) as root:
                reports.append(_unpack(current, root, options))
            opened.popleft()
    finally:
        for archive, _ in opened:
            archive.close()
    return reports


class _Archive:
    """An open archive: its format and, except for zip, its stream. A thread decompresses the stream already."""

    def __init__(self, path: Path, limits: ArchiveLimits, read_ahead: int = READ_AHEAD) -> None:
        self.path = path
        self.descriptor = _open_archive(path)
        self.stream: ReadAhead | None = None
        try:
            self.size = os.fstat(self.descriptor).st_size
            self.format = self._detect(limits, read_ahead)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop decompressing and close the file. A second call does nothing."""
        if self.stream is not None:
            self.stream.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _detect(self, limits: ArchiveLimits, read_ahead: int) -> str:
        head = os.pread(self.descriptor, _HEAD_BYTES, 0)
        if head.startswith(zip_format.MAGICS):
            return "zip"
        offset, length, name = 0, self.size, "tar"
        if head.startswith(MAGIC):
            (offset, length), name = find_data(self.descriptor, self.size), "deb"
            head = os.pread(self.descriptor, min(length, _HEAD_BYTES), offset)
        compression = codec.detect(head)
        if compression is None and not tar.is_header(head) and head != bytes(_HEAD_BYTES):
            raise ArchiveError("by its first bytes neither tar, zip nor Debian package", reason=Reason.UNKNOWN_FORMAT)
        chunks = codec.unpacked(file_chunks(self.descriptor, offset, length), compression, limits)
        self.stream = ReadAhead(chunks, read_ahead)
        return f"{name}.{compression}" if compression else name


def _unpack(archive: _Archive, root: int, options: ExtractOptions) -> ExtractReport:
    budget = UnpackBudget(options.limits, archive.size)
    with ArchiveTreeWriter(root, budget, replace=options.replace) as writer:
        unpacking = Unpacking(writer, budget, options)
        if archive.stream is None:
            unpack_zip(archive.descriptor, archive.size, unpacking, options.limits)
        else:
            source = ByteSource(iter(archive.stream))
            for member in tar.members(source, options.limits):
                unpacking.add(member, source.take(member.size))
            source.drain()
        return unpacking.finish(archive.format)


def _open_archive(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
    except OSError as error:
        raise ArchiveError(f"cannot be read: {error.strerror}", reason=Reason.UNREADABLE) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArchiveError("not a regular file", reason=Reason.UNREADABLE)
    return descriptor


@contextmanager
def _open_destination(path: Path) -> Iterator[int]:
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, _DESTINATION)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    """Put the archive's name into ArchiveErrors, and turn OSErrors into ArchiveErrors."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(
            f"unpack {archive.name}: {error.message}", detail=error.detail, reason=error.reason
        ) from error
    except OSError as error:
        full = error.errno in _NO_SPACE
        refusal = ArchiveError(
            f"unpack {archive.name}: cannot write: {error.strerror or error}",
            detail="Free some space on the disk of the destination." if full else "",
            reason=Reason.NO_SPACE if full else Reason.CANNOT_WRITE,
        )
        refusal.exit_code = ExitCode.ENVIRONMENT_ERROR
        raise refusal from error
