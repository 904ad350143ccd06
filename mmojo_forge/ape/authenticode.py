"""What an Authenticode signature does to an APE (Microsoft: Windows Authenticode Portable Executable Signature Format).

A signing tool appends the signature and writes three numbers into the PE headers: the checksum, and the certificate
table's offset and size. The headers lie inside a single-quoted shell string, and the tool knows nothing of that: where
one of their bytes is a quote, 27h, shells would end the string there and take the rest for commands.
"""

from __future__ import annotations

from typing import Final

from mmojo_forge.ape.error import ApeError, ApeReason
from mmojo_forge.ape.layout import round_up
from mmojo_forge.ape.pe import HEADERS_AT, QUOTE, PeImage, find_signed_fields

# Signatures lie at a multiple of eight, and Windows starts nothing that is so large that 32 bits cannot tell where.
_ALIGN: Final = 8
_LIMIT: Final = 1 << 32
_CHECK_SUM: Final = "checksum"
_REMEDIES: Final = {
    # The signature does not cover it, and Windows looks at it in drivers only.
    _CHECK_SUM: "set it to zero, which voids nothing: printf '\\0\\0\\0\\0' | dd of=FILE bs=1 seek=%d conv=notrunc",
    "offset of the signature": "add a small file to the unsigned program, which changes its size, and sign again",
    "size of the signature": "sign again with another description (osslsigncode -n), which changes its size",
}


def choose_size(size: int) -> int:
    """The smallest size of a file from `size` on at which a signature's offset, which is that size, has no quote."""
    offset = round_up(size, _ALIGN)
    if offset >= _LIMIT:
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
                detail=remedy % (HEADERS_AT + at) if name == _CHECK_SUM else remedy,
                reason=ApeReason.QUOTE,
            )
