/* What this CPU can do and the OS lets us use, as the words of ape_slice.need.
 *
 * x86-64 (Intel SDM vol. 2A, CPUID; vol. 1, 13.3 XCR0):
 *   0 leaf 1 ecx   1 leaf 1 edx   2 leaf 7.0 ebx   3 leaf 7.0 ecx   4 leaf 7.0 edx   5 leaf 7.1 eax
 *   6 leaf 0x80000001 ecx   7 leaf 0x80000001 edx   8 XCR0, low half   9 leaf 7.1 edx
 * aarch64 (Linux Documentation/arch/arm64/elf_hwcaps.rst): 0, 1 AT_HWCAP   2, 3 AT_HWCAP2
 */
#ifndef APE_CPU_H
#define APE_CPU_H

#include "table.h"

#if defined(__x86_64__)

static void ape_cpuid(u32 leaf, u32 sub, u32 out[4]) {
  __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub));
}

static void ape_read_cpu(u32 have[APE_WORDS]) {
  u32 r[4], leaves, high;
  ape_cpuid(0, 0, r);
  leaves = r[0];
  ape_cpuid(1, 0, r);
  have[0] = r[2];
  have[1] = r[3];
  if (have[0] & (1u << 27)) { /* OSXSAVE: xgetbv exists, and tells which registers the OS keeps */
    __asm__ volatile("xgetbv" : "=a"(have[8]), "=d"(high) : "c"(0));
    (void)high;
  }
  if (leaves >= 7) {
    ape_cpuid(7, 0, r);
    high = r[0];
    have[2] = r[1];
    have[3] = r[2];
    have[4] = r[3];
    if (high >= 1) {
      ape_cpuid(7, 1, r);
      have[5] = r[0];
      have[9] = r[3];
    }
  }
  ape_cpuid(0x80000000u, 0, r);
  if (r[0] >= 0x80000001u) {
    ape_cpuid(0x80000001u, 0, r);
    have[6] = r[2];
    have[7] = r[3];
  }
}

#endif
#endif
