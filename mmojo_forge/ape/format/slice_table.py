"""The slice table that the linker writes into a launcher, with the CPU features that slices ask for.

The table is struct ape_table of `launcher/table.h`.

A feature's name is the one that Linux prints in `/proc/cpuinfo`, which is what the shell part compares. The launchers
compare words instead (`struct ape_slice.need`, `launcher/cpu.h`), so that no C code knows a feature's name:

    x86-64    0 leaf 1 ecx  1 leaf 1 edx  2 leaf 7.0 ebx  3 leaf 7.0 ecx  4 leaf 7.0 edx  5 leaf 7.1 eax
              6 leaf 80000001h ecx  7 leaf 80000001h edx  8 XCR0  9 leaf 7.1 edx
    aarch64   0, 1 AT_HWCAP  2, 3 AT_HWCAP2

Sources: Intel SDM volume 2A (CPUID) and volume 1, 13.3 (XCR0); Linux arch/x86/include/asm/cpufeatures.h for the
names; Linux arch/arm64/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mmojo_forge.ape.errors import ApeError, ApeReason

WORDS: Final = 12
_XCR0_WORD: Final = 8
# Register state that the OS must save before the instructions may be used: SSE+AVX, AVX-512, AMX tiles.
_AVX: Final = 0x6
_AVX512: Final = 0xE6
_AMX: Final = 0x60000

# name: (word, bit, XCR0 bits)
_X86: Final = MappingProxyType(
    {
        "pni": (0, 0, 0),
        "pclmulqdq": (0, 1, 0),
        "ssse3": (0, 9, 0),
        "fma": (0, 12, _AVX),
        "cx16": (0, 13, 0),
        "sse4_1": (0, 19, 0),
        "sse4_2": (0, 20, 0),
        "movbe": (0, 22, 0),
        "popcnt": (0, 23, 0),
        "aes": (0, 25, 0),
        "avx": (0, 28, _AVX),
        "f16c": (0, 29, _AVX),
        "sse": (1, 25, 0),
        "sse2": (1, 26, 0),
        "bmi1": (2, 3, 0),
        "avx2": (2, 5, _AVX),
        "bmi2": (2, 8, 0),
        "avx512f": (2, 16, _AVX512),
        "avx512dq": (2, 17, _AVX512),
        "adx": (2, 19, 0),
        "avx512ifma": (2, 21, _AVX512),
        "avx512cd": (2, 28, _AVX512),
        "sha_ni": (2, 29, 0),
        "avx512bw": (2, 30, _AVX512),
        "avx512vl": (2, 31, _AVX512),
        "avx512vbmi": (3, 1, _AVX512),
        "avx512_vbmi2": (3, 6, _AVX512),
        "gfni": (3, 8, 0),
        "vaes": (3, 9, _AVX),
        "vpclmulqdq": (3, 10, _AVX),
        "avx512_vnni": (3, 11, _AVX512),
        "avx512_bitalg": (3, 12, _AVX512),
        "avx512_vpopcntdq": (3, 14, _AVX512),
        "avx512_vp2intersect": (4, 8, _AVX512),
        "amx_bf16": (4, 22, _AMX),
        "avx512_fp16": (4, 23, _AVX512),
        "amx_tile": (4, 24, _AMX),
        "amx_int8": (4, 25, _AMX),
        "avx_vnni": (5, 4, _AVX),
        "avx512_bf16": (5, 5, _AVX512),
        "amx_fp16": (5, 21, _AMX),
        "avx_ifma": (5, 23, _AVX),
        "lahf_lm": (6, 0, 0),
        "abm": (6, 5, 0),
        "lm": (7, 29, 0),
    }
)

_ARM: Final = MappingProxyType(
    {
        name: (bit // 32 + (2 if second else 0), bit % 32, 0)
        for second, bits in (
            (
                False,
                {"fp": 0, "asimd": 1, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7, "atomics": 8}
                | {"fphp": 9, "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14, "lrcpc": 15, "dcpop": 16}
                | {"sha3": 17, "sm3": 18, "sm4": 19, "asimddp": 20, "sha512": 21, "sve": 22, "asimdfhm": 23},
            ),
            (
                True,
                {"dcpodp": 0, "sve2": 1, "flagm2": 7, "frint": 8, "svei8mm": 9, "svef32mm": 10, "svef64mm": 11}
                | {"svebf16": 12, "i8mm": 13, "bf16": 14, "sme": 23},
            ),
        )
        for name, bit in bits.items()
    }
)

_BY_MACHINE: Final = MappingProxyType({"x86_64": _X86, "aarch64": _ARM})
MAX_SLICES: Final = 32
MAGIC: Final = b"@APE-TABLE-0001@"
_HEAD: Final = struct.Struct("<16sIIQ64s64s")
_SLICE: Final = struct.Struct(f"<48s24sQQ32s{WORDS}I")
SIZE: Final = _HEAD.size + MAX_SLICES * _SLICE.size


def encode_features(system: str, features: Iterable[str]) -> tuple[int, ...]:
    """The words of `ape_slice.need` that say what a slice for `system` asks of the machine."""
    os_name, _, machine = system.partition("-")
    words = [0] * WORDS
    for name in features:
        if os_name == "macos":
            raise ApeError(
                f"slice {system}: feature {name!r} cannot be asked for on macOS",
                detail="the shell part has no cheap way to see it there; give one slice per machine",
                reason=ApeReason.FEATURE,
            )
        known = _BY_MACHINE[machine]
        if name not in known:
            raise ApeError(
                f"slice {system}: unknown CPU feature {name!r}",
                detail="features are named as in Linux's /proc/cpuinfo: " + ", ".join(sorted(known)),
                reason=ApeReason.FEATURE,
            )
        word, bit, xcr0 = known[name]
        words[word] |= 1 << bit
        words[_XCR0_WORD] |= xcr0
    return tuple(words)


@dataclass(frozen=True, slots=True)
class TableSlice:
    """One slice as a launcher sees it."""

    name: str
    system: str
    offset: int
    size: int
    sha256: str
    need: tuple[int, ...]

    def encode(self) -> bytes:
        """struct ape_slice."""
        names = (self.name.encode(), self.system.encode())
        return _SLICE.pack(*names, self.offset, self.size, bytes.fromhex(self.sha256), *self.need)


def find_table(image: bytes, what: str) -> int:
    """Where the placeholder lies in a launcher's bytes."""
    at = image.find(MAGIC)
    if at < 0 or image.find(MAGIC, at + 1) >= 0:
        raise ApeError(
            f"launcher {what}: {'no' if at < 0 else 'more than one'} slice table in it",
            detail="launchers are built by mmojo_forge/ape/launcher/build.sh",
            reason=ApeReason.LAUNCHER,
        )
    (size,) = struct.unpack_from("<I", image, at + 16)
    if size != SIZE or at + SIZE > len(image):
        raise ApeError(
            f"launcher {what}: its slice table has {size} bytes, this linker's {SIZE}",
            detail="build the launchers from the same sources as the linker",
            reason=ApeReason.LAUNCHER,
        )
    return at


def encode_table(program: str, offset: int, header: bytes, slices: Sequence[TableSlice]) -> bytes:
    """struct ape_table for a table that lies at `offset` of the container; `header` is what --assimilate writes."""
    head = _HEAD.pack(MAGIC, SIZE, len(slices), offset, header, program.encode())
    return (head + b"".join(row.encode() for row in slices)).ljust(SIZE, b"\0")


def patch_table(image: bytes, table: bytes, what: str) -> bytes:
    """`image` with `table` in place of its placeholder."""
    at = find_table(image, what)
    return image[:at] + table + image[at + SIZE :]
