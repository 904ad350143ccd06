"""CRC-32 of pieces, joined: what lies far apart can be summed at the same time, and a hole without reading it.

Feeding n zero bits to a CRC is a linear map over GF(2), a 32 x 32 matrix; its powers by squaring (the way of zlib's
crc32_combine).
"""

from __future__ import annotations

import zlib
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320
_Matrix = tuple[int, ...]


def join_crc(first: int, second: int, size: int) -> int:
    """The CRC of two runs of bytes from those of each; `size` is how many bytes the second one has."""
    matrix = _one_bit()
    for _ in range(3):
        matrix = _square(matrix)
    while size:
        if size & 1:
            first = _times(matrix, first)
        size >>= 1
        if size:
            matrix = _square(matrix)
    return first ^ second


def crc_of_zeros(size: int) -> int:
    """The CRC of `size` zero bytes."""
    block = zlib.crc32(bytes(1 << 16))
    crc, count = zlib.crc32(bytes(size % (1 << 16))), size % (1 << 16)
    # Doubling: the CRC of 2^k blocks from that of 2^(k-1).
    blocks, length = size >> 16, 1 << 16
    while blocks:
        if blocks & 1:
            crc, count = join_crc(crc, block, length), count + length
        block, length, blocks = join_crc(block, block, length), length * 2, blocks >> 1
    return crc


def _one_bit() -> _Matrix:
    """What one zero bit does to a CRC."""
    return (_POLYNOMIAL, *(1 << bit for bit in range(31)))


def _times(matrix: _Matrix, vector: int) -> int:
    total, row = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[row]
        vector >>= 1
        row += 1
    return total


def _square(matrix: _Matrix) -> _Matrix:
    return tuple(_times(matrix, column) for column in matrix)
