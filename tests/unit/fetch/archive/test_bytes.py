"""Archives written by hand, byte by byte, a place to unpack them in, and proof that others read them as meant."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mmojo_forge.fetch.archive import ArchiveError, ExtractOptions, ExtractReport, extract

END = bytes(1024)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def pad(data: bytes) -> bytes:
    """`data` filled up to whole tar blocks."""
    return data + bytes(-len(data) % 512)


def entry(
    name: str | bytes,
    content: bytes = b"",
    *,
    kind: str = "0",
    target: str | bytes = b"",
    mode: int = 0o644,
    size: int | bytes | None = None,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One tar entry; `size` may be anything at all."""
    size = len(content) if size is None else size
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    name = name.encode() if isinstance(name, str) else name
    target = target.encode() if isinstance(target, str) else target
    block = bytearray(512)
    block[0 : len(name[:100])] = name[:100]
    block[100:108] = b"%07o\0" % mode
    block[108:124] = b"0001750\x000001750\0"
    block[124:136] = field
    block[136:148] = b"%011o\0" % 1234567890
    block[156:157] = kind.encode("latin-1")
    block[157 : 157 + len(target[:100])] = target[:100]
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    return checksummed(block) + pad(content)


def checksummed(block: bytearray | bytes) -> bytes:
    """A tar header block with its checksum made right."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(kind: str = "x", **records: str | bytes) -> bytes:
    """A pax extended header; `__` in a key stands for a dot."""
    data = b""
    for key, value in records.items():
        body = b" %s=%s\n" % (
            key.replace("__", ".").encode(),
            value if isinstance(value, bytes) else value.encode(),
        )
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        data += str(length).encode() + body
    return entry("pax", data, kind=kind)


def long_name(name: str, kind: str = "L") -> bytes:
    """A GNU long name (L) or long link target (K)."""
    return entry("././@LongLink", name.encode() + b"\0", kind=kind, magic=b"ustar  \0")


def symlink(name: str, target: str) -> bytes:
    """A tar symlink, with a pax header where the target or name is too long for the block."""
    extra = pax(path=name, linkpath=target) if max(len(name), len(target)) > 99 else b""
    return extra + entry(name, kind="2", target=target)


def hard_link(name: str, target: str) -> bytes:
    """A tar hard link."""
    return entry(name, kind="1", target=target)


def directory(name: str) -> bytes:
    """A tar directory, with a pax header where the name is too long for the block."""
    extra = pax(path=name) if len(name) > 99 else b""
    return extra + entry(name, kind="5", mode=0o755)


def tar(*entries: bytes) -> bytes:
    """A complete tar."""
    return b"".join(entries) + END


@dataclass
class ZipFile:
    """A zip entry that may lie: what is said in the local header can be set apart from the central directory."""

    name: str | bytes
    content: bytes = b""
    mode: int = 0o100644
    method: int = 8
    flags: int = 1 << 11
    host: int = 3
    packed: bytes | None = None
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> tuple[bytes, bytes, bytes, dict[str, Any]]:
        """Name, packed content, local header, values of the central one."""
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        packed = self.packed
        if packed is None:
            packed = deflate(self.content) if self.method == 8 else self.content
        values: dict[str, Any] = {
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.content),
            "packed": len(packed),
            "size": len(self.content),
            "extra": b"",
            "name": name,
        }
        here = values | self.local
        header = struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, here["flags"], here["method"], 0, 33, here["crc"], here["packed"],
            here["size"], len(here["name"]), len(here["extra"]),
        )  # fmt: skip
        return name, packed, header + here["name"] + here["extra"], values | self.central


def deflate(data: bytes) -> bytes:
    """Raw deflate, as zip has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_of(*files: ZipFile, end: dict[str, Any] | None = None, before_end: bytes = b"", comment: bytes = b"") -> bytes:
    """A zip of these entries; `end` overrides fields of the end record, `offset` in `central` places an entry."""
    body, central = b"", b""
    for file in files:
        _, packed, local, values = file.parts()
        offset = values.get("offset", len(body))
        body += local + packed
        central += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", file.host << 8 | 63, 20, values["flags"], values["method"], 0, 33,
            values["crc"], values["packed"], values["size"], len(values["name"]), len(values["extra"]), 0, 0, 0,
            file.mode << 16, offset,
        )  # fmt: skip
        central += values["name"] + values["extra"]
    last: dict[str, Any] = {
        "disk": 0,
        "here": len(files),
        "total": len(files),
        "size": len(central),
        "offset": len(body),
    } | (end or {})
    record = struct.pack(
        "<4s4H2LH", b"PK\5\6", last["disk"], last["disk"], last["here"], last["total"], last["size"], last["offset"],
        len(comment),
    )  # fmt: skip
    return body + central + before_end + record + comment


def end64(total: int, size: int, offset: int) -> bytes:
    """A zip64 end record and its locator, for `before_end`."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 63, 45, 0, 0, total, total, size, offset)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)


def deb(
    *, data: bytes | None, name: str = "data.tar", control: bytes = b"never read", version: bytes = b"2.0\n"
) -> bytes:
    """A Debian package with this data archive."""
    members = [("debian-binary", version), ("control.tar.gz", control)]
    members += [(name, data)] if data is not None else []
    return b"!<arch>\n" + b"".join(ar_member(*member) for member in members)


def ar_member(name: str, content: bytes) -> bytes:
    """One member of an ar archive."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


Seen = dict[str, tuple[Any, ...]]


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """As many descriptors are open afterwards as were before."""
    # What tests before this one left behind must not be closed in the middle of it. Collecting it first would do as
    # well, but takes a tenth of a second once some thousand tests have run.
    gc.disable()
    try:
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            yield
        finally:
            assert len(os.listdir("/proc/self/fd")) == descriptors
    finally:
        gc.enable()


class Arena:
    """A directory to unpack into, `dest`, with a sentinel tree around it that every extraction must leave as it was."""

    def __init__(self, root: Path) -> None:
        self.root = root / "arena"
        self.dest = self.root / "inner" / "dest"
        self.archive = root / "archive"
        self.dest.parent.mkdir(parents=True)
        for name in ("secret", "inner/secret", "inner/etc/passwd"):
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_bytes(b"sentinel")
            (self.root / name).chmod(0o600)

    def extract(self, data: bytes, **options: Any) -> ExtractReport:
        """Unpack, and check that the sentinels, threads' descriptors and all, are as they were."""
        self.archive.write_bytes(data)
        before = self._around()
        with nothing_left_open():
            try:
                return extract(self.archive, self.dest, ExtractOptions(**options))
            finally:
                assert self._around() == before

    def refusal(self, data: bytes, **options: Any) -> str:
        """The reason for which an archive is refused."""
        with pytest.raises(ArchiveError) as caught:
            self.extract(data, **options)
        return caught.value.reason

    def tree(self) -> Seen:
        """What lies in the destination: kind and content or target of each path."""
        return {path: value for path, value in _walk(self.dest).items() if path}

    def _around(self) -> Seen:
        seen: Seen = {}
        for path, value in _walk(self.root, leave_out=self.dest).items():
            status = (self.root / path).lstat()
            # The destination itself may come into being in there.
            times = 0 if path == "inner" else status.st_mtime_ns
            seen[path] = (*value, stat.S_IMODE(status.st_mode), times, status.st_ino)
        return seen


def _walk(root: Path, leave_out: Path | None = None) -> Seen:
    seen: Seen = {}
    for above, directories, files in os.walk(root):
        here = Path(above).relative_to(root)
        directories[:] = [name for name in directories if Path(above) / name != leave_out]
        seen["" if here == Path() else str(here)] = ("d",)
        for name in [*files, *(name for name in directories if (Path(above) / name).is_symlink())]:
            path = Path(above) / name
            if path.is_symlink():
                seen[str(here / name)] = ("l", os.readlink(path))
            elif path.is_file():
                seen[str(here / name)] = ("x" if os.access(path, os.X_OK) else "f", path.read_bytes())
    return seen


def test_tars_written_by_hand_are_read_by_the_standard_library_as_meant() -> None:
    data = tar(
        directory("d"), entry("d/f", b"hello", mode=0o755), symlink("l", "d/" + "x" * 200), hard_link("h", "d/f")
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(member.name, member.type, member.linkname) for member in archive]
    assert found == [
        ("d", b"5", ""),
        ("d/f", b"0", ""),
        ("l", b"2", "d/" + "x" * 200),
        ("h", b"1", "d/f"),
    ]


def test_zips_written_by_hand_are_read_by_the_standard_library_as_meant() -> None:
    data = zip_of(ZipFile("a", b"hello" * 100), ZipFile("b", b"stored", method=0), comment=b"hi")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [info.filename for info in archive.infolist()] == ["a", "b"]
