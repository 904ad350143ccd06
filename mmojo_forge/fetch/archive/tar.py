"""Tar archives, read as a stream: POSIX ustar with pax extended headers, GNU long names, and V7.

Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".

Tar readers disagree about unusual archives, so one program can check an entry and another one write a different one.
This reader therefore refuses ambiguous archives: a size on an entry without content, two extended headers of one kind
before one entry, names or sizes in a global header, sparse files, a lone zero block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import ArchiveLimits, ArchiveMember, MemberKind
from mmojo_forge.fetch.archive.stream import ByteSource

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(r"[0-9]{1,19}")
_OWNER_EXECUTES = 0o100

# Type flags (byte 156 of a header)
_PLAIN = b"0\0007"  # regular, regular in V7, contiguous
_EXTENSIONS = b"xgLK"
_KINDS = MappingProxyType(
    {
        ord("1"): MemberKind.HARD_LINK,
        ord("2"): MemberKind.SYMLINK,
        ord("3"): MemberKind.DEVICE,
        ord("4"): MemberKind.DEVICE,
        ord("5"): MemberKind.DIRECTORY,
        ord("6"): MemberKind.DEVICE,
    }
)
_UNSUPPORTED = MappingProxyType(
    {
        ord("S"): "a GNU sparse file",
        ord("D"): "a GNU directory dump",
        ord("M"): "a part of a multi-volume archive",
        ord("V"): "a volume label",
        ord("X"): "a Solaris extended header",
    }
)


@dataclass(frozen=True, slots=True)
class _Override:
    """Values from extended headers that override those in the next entry's header."""

    name: str | None = None
    target: str | None = None
    size: int | None = None
    seen: str = ""


def is_header(block: bytes) -> bool:
    """Whether a block is a tar header, by its checksum."""
    if len(block) < BLOCK or not block[0]:
        return False
    match = _OCTAL.fullmatch(block[148:156])
    if not match or not match[1]:
        return False
    claimed = int(match[1], 8)
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if claimed == total:
        return True
    high = sum(1 for index, byte in enumerate(block) if byte > 127 and not 148 <= index < 156)
    return claimed == total - 256 * high  # old writers added up signed characters


def members(source: ByteSource, limits: ArchiveLimits) -> Iterator[ArchiveMember]:
    """The entries of a tar; raises ArchiveError. Take a file's content from `source` before the next entry."""
    override = _Override()
    extensions = 0
    while (block := _next_header(source)) is not None:
        size = _number(block[124:136], "size")
        if block[156] in _EXTENSIONS:
            extensions += 1
            if extensions > limits.members:
                raise ArchiveError(f"more than {limits.members} extended headers", reason=Reason.TOO_MANY)
            override = _extend(override, block[156], _extension(source, size, limits))
            continue
        member = _member(block, size, override)
        override = _Override()
        end = source.position + member.size
        yield member
        source.skip(end + -member.size % BLOCK - source.position)
    if override.seen:
        raise ArchiveError("no entry follows an extended header", reason=Reason.TRUNCATED)


def _next_header(source: ByteSource) -> bytes | None:
    """The next header block, or None at the end mark: two zero blocks. Some writers leave out the second."""
    block = source.read(BLOCK)
    if block == _ZERO_BLOCK:
        if not source.at_end() and source.read(BLOCK) != _ZERO_BLOCK:
            raise ArchiveError("a lone zero block between entries", reason=Reason.CORRUPT)
        return None
    if not is_header(block):
        reason = Reason.CORRUPT if source.position > BLOCK else Reason.UNKNOWN_FORMAT
        raise ArchiveError(f"no tar header at byte {source.position - BLOCK}", reason=reason)
    return block


def _member(block: bytes, size: int, override: _Override) -> ArchiveMember:
    name = override.name if override.name is not None else _name(block)
    target = override.target if override.target is not None else _text(block[157:257], "link name")
    size = override.size if override.size is not None else size
    flag = block[156]
    kind = MemberKind.FILE if flag in _PLAIN else _KINDS.get(flag)
    if kind is None:
        what = _UNSUPPORTED.get(flag, f"an entry of type {flag:#x}")
        raise ArchiveError(f"{name}: {what} is not supported", reason=Reason.UNSUPPORTED)
    if kind is MemberKind.FILE and name.endswith("/"):
        kind = MemberKind.DIRECTORY  # V7 has no type for directories
    if size and kind is not MemberKind.FILE:
        raise ArchiveError(f"{name}: {kind.name.lower()} with {size} bytes of content", reason=Reason.CORRUPT)
    executable = bool(_number(block[100:108], "mode") & _OWNER_EXECUTES)
    return ArchiveMember(name, kind, size, executable, target)


def _name(block: bytes) -> str:
    name = _text(block[0:100], "name")
    # GNU tar (magic "ustar  ") has other fields in place of the prefix.
    prefix = _text(block[345:500], "name") if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes, what: str) -> str:
    try:
        return field.partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{what} {field[:80]!r} is not UTF-8", reason=Reason.BAD_NAME) from error


def _number(field: bytes, what: str) -> int:
    """The value of a numeric field: octal digits, or GNU's base 256 for larger values."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    elif match := _OCTAL.fullmatch(field):
        number = int(match[1] or b"0", 8)
    else:
        raise ArchiveError(f"{what} {field!r} is not a number, or is negative", reason=Reason.CORRUPT)
    if number >= 1 << 63:
        raise ArchiveError(f"{what} of {number}", reason=Reason.TOO_BIG)
    return number


def _extension(source: ByteSource, size: int, limits: ArchiveLimits) -> bytes:
    if size > limits.header_bytes:
        raise ArchiveError(f"an extended header of {size} bytes", reason=Reason.TOO_BIG)
    data = source.read(size)
    source.skip(-size % BLOCK)
    return data


def _extend(override: _Override, flag: int, data: bytes) -> _Override:
    """`override` with the values of one more extended header."""
    kind = chr(flag)
    if kind in override.seen:
        raise ArchiveError("two extended headers of one kind before one entry", reason=Reason.CORRUPT)
    if kind == "g":
        if {"path", "linkpath", "size"} & _pax_records(data).keys():
            raise ArchiveError("a global header sets names or sizes", reason=Reason.UNSUPPORTED)
        return override
    override = replace(override, seen=override.seen + kind)
    if kind == "x":
        return _with_pax(override, _pax_records(data))
    text = _text(data, "GNU long name")
    # pax wins over GNU's extension, in either order.
    if kind == "L":
        return override if override.name is not None else replace(override, name=text)
    return override if override.target is not None else replace(override, target=text)


def _with_pax(override: _Override, records: dict[str, bytes]) -> _Override:
    if any(key.startswith("GNU.sparse.") for key in records):
        raise ArchiveError("a GNU sparse file is not supported", reason=Reason.UNSUPPORTED)
    if "path" in records:
        override = replace(override, name=_pax_text(records["path"]))
    if "linkpath" in records:
        override = replace(override, target=_pax_text(records["linkpath"]))
    if "size" in records:
        override = replace(override, size=_pax_size(records["size"]))
    return override


def _pax_records(data: bytes) -> dict[str, bytes]:
    """The `length key=value\\n` records of an extended header. The last record of a key counts."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space].decode("ascii", "replace") if space > 0 else ""
        end = position + int(digits) if _DECIMAL.fullmatch(digits) else 0
        equals = data.find(b"=", space, end)
        if not space + 1 < equals < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveError("a malformed pax header", reason=Reason.CORRUPT)
        records[data[space + 1 : equals].decode("utf-8", "replace")] = data[equals + 1 : end - 1]
        position = end
    return records


def _pax_text(value: bytes) -> str:
    try:
        return value.decode()  # placement checks for NUL and other bad names
    except UnicodeDecodeError as error:
        raise ArchiveError(f"name {value[:80]!r} is not UTF-8", reason=Reason.BAD_NAME) from error


def _pax_size(value: bytes) -> int:
    digits = value.decode("ascii", "replace")
    if not _DECIMAL.fullmatch(digits) or int(digits) >= 1 << 63:
        raise ArchiveError(f"a pax size of {value[:40]!r}", reason=Reason.CORRUPT)
    return int(digits)
