/* Refuses, in words, to run on a CPU that lacks what the program was compiled for: better than "Illegal instruction".
 *
 * FORGE_MACROS is a header with one NEED_X for each macro __X__ by which the compiler says that it may use an
 * instruction set (see macros.sh): what is asked for here is what the compiler was allowed, and cannot drift from it.
 * The file itself is compiled for the plainest CPU of the architecture, and runs before any other constructor.
 *
 * Bits: Intel SDM volume 2A (CPUID) and volume 1, 13.3 (XCR0); Linux Documentation/arch/arm64/elf_hwcaps.rst.
 */
#include FORGE_MACROS

#include <stdio.h>
#include <stdlib.h>

struct feature {
  const char *name;
  unsigned word, bit; /* x86: where in read_cpu's words; arm64: AT_HWCAP, AT_HWCAP2 */
  unsigned state;     /* x86: register state in XCR0 that the OS must keep */
};

#if defined(__x86_64__)

#include <cpuid.h>

#define AVX 0x6u
#define AVX512 0xe6u
#define AMX 0x60000u

enum { ONE_ECX, SEVEN_EBX, SEVEN_ECX, SEVEN_EDX, SEVEN_ONE_EAX, EXTENDED_ECX, XCR0, WORDS };

static const struct feature NEEDED[] = {
#ifdef NEED_SSE3
    {"sse3", ONE_ECX, 0, 0},
#endif
#ifdef NEED_SSSE3
    {"ssse3", ONE_ECX, 9, 0},
#endif
#ifdef NEED_FMA
    {"fma", ONE_ECX, 12, AVX},
#endif
#ifdef NEED_SSE4_1
    {"sse4.1", ONE_ECX, 19, 0},
#endif
#ifdef NEED_SSE4_2
    {"sse4.2", ONE_ECX, 20, 0},
#endif
#ifdef NEED_MOVBE
    {"movbe", ONE_ECX, 22, 0},
#endif
#ifdef NEED_POPCNT
    {"popcnt", ONE_ECX, 23, 0},
#endif
#ifdef NEED_AVX
    {"avx", ONE_ECX, 28, AVX},
#endif
#ifdef NEED_F16C
    {"f16c", ONE_ECX, 29, AVX},
#endif
#ifdef NEED_BMI
    {"bmi1", SEVEN_EBX, 3, 0},
#endif
#ifdef NEED_AVX2
    {"avx2", SEVEN_EBX, 5, AVX},
#endif
#ifdef NEED_BMI2
    {"bmi2", SEVEN_EBX, 8, 0},
#endif
#ifdef NEED_AVX512F
    {"avx512f", SEVEN_EBX, 16, AVX512},
#endif
#ifdef NEED_AVX512DQ
    {"avx512dq", SEVEN_EBX, 17, AVX512},
#endif
#ifdef NEED_AVX512IFMA
    {"avx512ifma", SEVEN_EBX, 21, AVX512},
#endif
#ifdef NEED_AVX512CD
    {"avx512cd", SEVEN_EBX, 28, AVX512},
#endif
#ifdef NEED_AVX512BW
    {"avx512bw", SEVEN_EBX, 30, AVX512},
#endif
#ifdef NEED_AVX512VL
    {"avx512vl", SEVEN_EBX, 31, AVX512},
#endif
#ifdef NEED_AVX512VBMI
    {"avx512vbmi", SEVEN_ECX, 1, AVX512},
#endif
#ifdef NEED_AVX512VBMI2
    {"avx512_vbmi2", SEVEN_ECX, 6, AVX512},
#endif
#ifdef NEED_GFNI
    {"gfni", SEVEN_ECX, 8, 0},
#endif
#ifdef NEED_VAES
    {"vaes", SEVEN_ECX, 9, AVX},
#endif
#ifdef NEED_VPCLMULQDQ
    {"vpclmulqdq", SEVEN_ECX, 10, AVX},
#endif
#ifdef NEED_AVX512VNNI
    {"avx512_vnni", SEVEN_ECX, 11, AVX512},
#endif
#ifdef NEED_AVX512BITALG
    {"avx512_bitalg", SEVEN_ECX, 12, AVX512},
#endif
#ifdef NEED_AVX512VPOPCNTDQ
    {"avx512_vpopcntdq", SEVEN_ECX, 14, AVX512},
#endif
#ifdef NEED_AVX512VP2INTERSECT
    {"avx512_vp2intersect", SEVEN_EDX, 8, AVX512},
#endif
#ifdef NEED_AVX512FP16
    {"avx512_fp16", SEVEN_EDX, 23, AVX512},
#endif
#ifdef NEED_AMX_TILE
    {"amx_tile", SEVEN_EDX, 24, AMX},
#endif
#ifdef NEED_AMX_INT8
    {"amx_int8", SEVEN_EDX, 25, AMX},
#endif
#ifdef NEED_AMX_BF16
    {"amx_bf16", SEVEN_EDX, 22, AMX},
#endif
#ifdef NEED_AVXVNNI
    {"avx_vnni", SEVEN_ONE_EAX, 4, AVX},
#endif
#ifdef NEED_AVX512BF16
    {"avx512_bf16", SEVEN_ONE_EAX, 5, AVX512},
#endif
#ifdef NEED_LZCNT
    {"lzcnt", EXTENDED_ECX, 5, 0},
#endif
#ifdef NEED_SSE4A
    {"sse4a", EXTENDED_ECX, 6, 0},
#endif
    {0, 0, 0, 0},
};

static void read_cpu(unsigned have[WORDS]) {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) {
    have[ONE_ECX] = c;
    if (c & (1u << 27)) /* OSXSAVE: xgetbv exists, and tells which registers the OS keeps */
      __asm__ volatile("xgetbv" : "=a"(have[XCR0]), "=d"(d) : "c"(0));
  }
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    have[SEVEN_EBX] = b;
    have[SEVEN_ECX] = c;
    have[SEVEN_EDX] = d;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
      have[SEVEN_ONE_EAX] = a;
  }
  if (__get_cpuid(0x80000001u, &a, &b, &c, &d))
    have[EXTENDED_ECX] = c;
}

static int has(const unsigned *have, const struct feature *feature) {
  return (have[feature->word] >> feature->bit & 1) && (have[XCR0] & feature->state) == feature->state;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

enum { HWCAP, HWCAP2, WORDS };

static const struct feature NEEDED[] = {
#ifdef NEED_ARM_FEATURE_CRC32
    {"crc32", HWCAP, 7, 0},
#endif
#ifdef NEED_ARM_FEATURE_ATOMICS
    {"atomics", HWCAP, 8, 0},
#endif
#ifdef NEED_ARM_FEATURE_FP16_VECTOR_ARITHMETIC
    {"asimdhp", HWCAP, 10, 0},
#endif
#ifdef NEED_ARM_FEATURE_QRDMX
    {"asimdrdm", HWCAP, 12, 0},
#endif
#ifdef NEED_ARM_FEATURE_DOTPROD
    {"asimddp", HWCAP, 20, 0},
#endif
#ifdef NEED_ARM_FEATURE_SVE
    {"sve", HWCAP, 22, 0},
#endif
#ifdef NEED_ARM_FEATURE_MATMUL_INT8
    {"i8mm", HWCAP2, 13, 0},
#endif
#ifdef NEED_ARM_FEATURE_BF16
    {"bf16", HWCAP2, 14, 0},
#endif
    {0, 0, 0, 0},
};

static void read_cpu(unsigned have[WORDS]) {
  have[HWCAP] = (unsigned)getauxval(AT_HWCAP);
  have[HWCAP2] = (unsigned)getauxval(AT_HWCAP2);
}

static int has(const unsigned *have, const struct feature *feature) {
  return have[feature->word] >> feature->bit & 1;
}

#else /* every Mac with an Apple CPU has what the first of them had */

enum { WORDS = 1 };
static const struct feature NEEDED[] = {{0, 0, 0, 0}};
static void read_cpu(unsigned have[WORDS]) { (void)have; }
static int has(const unsigned *have, const struct feature *feature) { return (void)have, (void)feature, 1; }

#endif

__attribute__((constructor(101))) static void forge_check_cpu(void) {
  unsigned have[WORDS] = {0};
  const struct feature *feature;
  int missing = 0;
  read_cpu(have);
  for (feature = NEEDED; feature->name; feature++) {
    if (has(have, feature))
      continue;
    if (!missing++)
      fputs("This program was built for CPUs with more than this one has:", stderr);
    fprintf(stderr, " %s", feature->name);
  }
  if (missing) {
    fputs(".\nTake a build for a lower CPU level, or mmojo-server.ape, which chooses by itself.\n", stderr);
    exit(1);
  }
}
