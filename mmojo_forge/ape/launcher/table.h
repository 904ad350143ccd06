/* The slice table: what the linker tells a launcher, so that a launcher parses nothing.
 *
 * A launcher is compiled with an empty table that carries APE_TABLE_MAGIC. The linker (ape/table.py) finds
 * that magic exactly once in the launcher's bytes and overwrites the whole struct. Both sides are little
 * endian with natural alignment; `size` lets the linker refuse a launcher built from another table.h.
 */
#ifndef APE_TABLE_H
#define APE_TABLE_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define APE_TABLE_MAGIC "@APE-TABLE-0001@" /* 16 bytes, no terminator */
#define APE_SLICES 32
#define APE_WORDS 12

struct ape_slice {
  char name[48];       /* unique in the file; what APE_SLICE names */
  char system[24];     /* "linux-x86_64", "windows-x86_64", ... */
  u64 offset;          /* in the container, a multiple of 64 KiB */
  u64 size;            /* in bytes */
  u8 sha256[32];       /* of its bytes */
  u32 need[APE_WORDS]; /* bits the CPU and the OS must have; word numbers: cpu.h and ape/features.py */
};

struct ape_table {
  char magic[16];
  u32 size;         /* sizeof(struct ape_table) */
  u32 count;        /* slices in use, best first */
  u64 offset;       /* of this table in the container; 0 while not linked */
  u8 header[64];    /* the ELF header that --assimilate writes at offset 0; zero for Windows */
  char program[64]; /* file name of the unpacked slice */
  struct ape_slice slices[APE_SLICES];
};

/* volatile: the compiler must not believe the bytes it saw. */
#define APE_PLACEHOLDER                                               \
  __attribute__((used, aligned(16))) static const volatile struct ape_table \
      ape_placeholder = {.magic = APE_TABLE_MAGIC, .size = sizeof(struct ape_table)}

static inline const struct ape_table *ape_linked_table(const volatile struct ape_table *placeholder) {
  const struct ape_table *table = (const struct ape_table *)placeholder;
  __asm__("" : "+r"(table)); /* from here on it is an unknown address to the optimizer */
  return table;
}

#endif
