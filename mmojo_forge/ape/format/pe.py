"""PE, and its Authenticode signature, as an APE needs them.

Microsoft: PE/COFF specification, whose tables have the field offsets used here; Windows Authenticode Portable
Executable Signature Format.

The launcher's PE headers move to offset 64, directly behind the DOS header, and its section data to wherever the
linker has room; the loader finds both by offsets that are rewritten here. The headers lie inside a single-quoted
shell string, so none of their bytes may be the quote, 27h: shells would take what follows for commands.

A signing tool knows nothing of that string. It appends the signature and writes three numbers into the headers: the
checksum, and the certificate table's offset and size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mmojo_forge.ape.errors import ApeError, ApeReason
from mmojo_forge.ape.format.layout import round_up

HEADERS_AT: Final = 64
QUOTE: Final = 0x27
_ALIGN: Final = 512
_AMD64: Final = 0x8664
_PE32_PLUS: Final = 0x20B
_DEBUG: Final = 6  # index in the data directory
_SECURITY: Final = 4
MAX_SIGNATURE: Final = 65536

# Offsets from the PE signature: COFF header at 4, optional header at 24.
_TIME_DATE_STAMP: Final = 8
_SYMBOLS: Final = 12
_SIZES: Final = (28, 32, 36)  # SizeOfCode, SizeOfInitializedData, SizeOfUninitializedData
_SIZE_OF_HEADERS: Final = 24 + 60
_CHECK_SUM: Final = 24 + 64
_DIRECTORY: Final = 24 + 112
_SECTION: Final = 40
# Signatures lie at a multiple of eight, and Windows starts nothing that is so large that 32 bits cannot tell where.
_SIGNATURE_ALIGN: Final = 8
_SIGNATURE_LIMIT: Final = 1 << 32
_CHECKSUM_FIELD: Final = "checksum"
_REMEDIES: Final = MappingProxyType(
    {
        # The signature does not cover it, and Windows looks at it in drivers only.
        _CHECKSUM_FIELD: "set it to zero, which voids nothing: "
        "printf '\\0\\0\\0\\0' | dd of=FILE bs=1 seek=%d conv=notrunc",
        "offset of the signature": "add a small file to the unsigned program, which changes its size, and sign again",
        "size of the signature": "sign again with another description (osslsigncode -n), which changes its size",
    }
)


@dataclass(frozen=True, slots=True)
class PeSection:
    """One section: where it lies in memory and in the file."""

    name: str
    address: int
    memory_size: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PeSignature:
    """Where an Authenticode signature lies in the file: behind everything else (its table names a file offset)."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PeImage:
    """The headers of a PE32+ executable for x86-64, and what they say. `headers` starts with the signature."""

    headers: bytes
    entry: int
    subsystem: int
    sections: tuple[PeSection, ...]
    signature: PeSignature | None = None

    @property
    def data_start(self) -> int:
        """Where section data begins in the file the headers were read from."""
        return min(section.offset for section in self.sections if section.size)

    @property
    def data_end(self) -> int:
        """Where it ends."""
        return max(section.offset + section.size for section in self.sections)

    @property
    def file_end(self) -> int:
        """Where the executable ends; 0 where its headers do not tell, for a symbol table lies behind its sections."""
        at, _ = struct.unpack_from("<II", self.headers, _SYMBOLS)
        # The string table that follows the symbols says its own size, so the end is not known from the headers.
        return 0 if at else self.data_end


def parse_pe(image: bytes, what: str, reason: ApeReason = ApeReason.LAUNCHER) -> PeImage:
    """The PE whose bytes (its headers at least) are `image`."""
    try:
        if image[:2] != b"MZ":
            raise ValueError("no MZ")
        (start,) = struct.unpack_from("<I", image, 0x3C)
        (signature, machine, count, _, _, _, optional) = struct.unpack_from("<4sHHIIIH", image, start)
        (magic,) = struct.unpack_from("<H", image, start + 24)
        if (signature, machine, magic) != (b"PE\0\0", _AMD64, _PE32_PLUS):
            raise ValueError("not PE32+ for x86-64")
        (entry,) = struct.unpack_from("<I", image, start + 24 + 16)
        (subsystem,) = struct.unpack_from("<H", image, start + 24 + 68)
        first = start + 24 + optional
        sections = tuple(_parse_section(image, first + index * _SECTION) for index in range(count))
        signature = _parse_signature(image, start, optional)
        if not any(section.size for section in sections):
            raise ValueError("no section has data")
    except (struct.error, ValueError) as error:
        raise ApeError(f"{what}: not a PE executable for x86-64: {error}", reason=reason) from error
    return PeImage(image[start : first + count * _SECTION], entry, subsystem, sections, signature)


def _parse_signature(image: bytes, start: int, optional: int) -> PeSignature | None:
    if optional < _DIRECTORY - 24 + 8 * (_SECURITY + 1):
        return None
    found = PeSignature(*struct.unpack_from("<II", image, start + _DIRECTORY + 8 * _SECURITY))
    return found if found.offset and found.size else None


def find_signed_fields(pe: PeImage, start: int) -> tuple[tuple[int, int], ...]:
    """Offset and size, in a file whose PE headers begin at `start`, of what signing changes in those headers."""
    fields = ((_CHECK_SUM, 4), (_DIRECTORY + 8 * _SECURITY, 8))
    return tuple((start + at, size) for at, size in fields) if pe.signature else ()


def _parse_section(image: bytes, at: int) -> PeSection:
    name, memory_size, address, size, offset = struct.unpack_from("<8sIIII", image, at)
    return PeSection(name.rstrip(b"\0").decode("latin-1"), address, memory_size, offset, size)


def place_data(pe: PeImage, start: int, what: str) -> tuple[int, bytes]:
    """The first offset from `start` on where section data may lie, and the headers that say so.

    An offset is a number in the headers like any other: those with a quote among their bytes are passed over.
    """
    for step in range(4096):
        offset = round_up(start, _ALIGN) + step * _ALIGN
        headers = _move_headers(pe, offset, what)
        if QUOTE not in headers:
            return offset, headers
    at = _move_headers(pe, round_up(start, _ALIGN), what).index(QUOTE)
    raise ApeError(
        f"launcher {what}: its PE headers hold the byte 27h, a quote, {at} bytes after their start",
        detail="the shell would end its string there; change the launcher's code or flags so that the value differs",
        reason=ApeReason.QUOTE,
    )


def _move_headers(pe: PeImage, offset: int, what: str) -> bytes:
    headers = bytearray(pe.headers)
    size = round_up(HEADERS_AT + len(headers), _ALIGN)
    first_address = min(section.address for section in pe.sections)
    if size > first_address or offset < size:
        raise ApeError(f"launcher {what}: no room for its PE headers", reason=ApeReason.LAUNCHER)
    # Nobody needs these: no date belongs here, only drivers need a checksum, a debug directory names a file offset.
    for at, width in ((_TIME_DATE_STAMP, 4), (_CHECK_SUM, 4), (_DIRECTORY + 8 * _DEBUG, 8)):
        headers[at : at + width] = bytes(width)
    struct.pack_into("<I", headers, _SIZE_OF_HEADERS, size)
    for at in _SIZES:
        _avoid_quote(headers, at)
    first = len(headers) - len(pe.sections) * _SECTION
    for index, section in enumerate(pe.sections):
        at = first + index * _SECTION
        # Rounded up inside its last page, a section's memory size changes nothing.
        if section.memory_size % 4096:
            _avoid_quote(headers, at + 8)
        moved = section.offset + offset - pe.data_start if section.size else 0
        struct.pack_into("<I", headers, at + 20, moved)
    return bytes(headers)


def _avoid_quote(headers: bytearray, at: int) -> None:
    (value,) = struct.unpack_from("<I", headers, at)
    while QUOTE in struct.pack("<I", value) and value % 4096:
        value += 1
    struct.pack_into("<I", headers, at, value)


def choose_size(size: int) -> int:
    """The smallest size of a file from `size` on at which a signature's offset, which is that size, has no quote."""
    offset = round_up(size, _SIGNATURE_ALIGN)
    if offset >= _SIGNATURE_LIMIT:
        return size
    for place in reversed(range(4)):
        unit = 1 << 8 * place
        if offset // unit % 256 == QUOTE:
            return (offset // unit + 1) * unit
    return size


def check_signed_headers(pe: PeImage, what: str) -> None:
    """Refuses a signed file that no shell could start; raises ApeError (`ape-pe-quote`)."""
    fields = find_signed_fields(pe, 0)
    if not fields:
        return
    (checksum, _), (table, _) = fields
    for (name, remedy), at in zip(_REMEDIES.items(), (checksum, table, table + 4), strict=True):
        if QUOTE in pe.headers[at : at + 4]:
            raise ApeError(
                f"{what}: signing wrote a quote (27h) into its headers, in the {name}: shells cannot start it",
                detail=remedy % (HEADERS_AT + at) if name == _CHECKSUM_FIELD else remedy,
                reason=ApeReason.QUOTE,
            )
