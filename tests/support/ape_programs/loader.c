/* A loader for APE files as the specification describes it, for tests: `loader FILE ARGUMENT...`.
 *
 * It finds the ELF header among the printf lines of the first 8192 bytes, maps the program headers' segments at
 * their addresses and jumps. It is strict where loaders differ: what a file does not fill is not mapped, and the stack
 * the program gets starts one word higher than its own, so only 8-aligned, as with argv[0] shifted out.
 */
#include "syscall.h"

#if defined(__x86_64__)
#define MACHINE 62
#else
#define MACHINE 183
#endif
enum { PAGE = 65536, PT_LOAD = 1 };

struct segment {
  u32 kind, flags;
  u64 offset, address, physical, file_size, memory_size, align;
};

static u8 front[8192], header[8192];
static struct segment segments[73];

static void fail(const char *why) {
  u64 n = 0;
  while (why[n]) ++n;
  SYS3(SYS_write, 2, why, n);
  SYS1(SYS_exit_group, 99);
}

static int decode(const u8 *at, const u8 *end) {
  int n = 0;
  while (at < end && *at != 39) {
    int c = *at++;
    for (int i = c == 92 ? c = 0, 3 : 0; i && *at >= 48 && *at < 56; --i) c = c * 8 + *at++ - 48;
    header[n++] = (u8)c;
  }
  return n;
}

static int find_header(int fd) {
  long size = SYS4(SYS_pread64, fd, front, sizeof front, 0);
  if (size < 64 || memcmp(front, "MZqFpD='", 8)) fail("loader: no magic\n");
  for (long i = 0; i + 8 < size; ++i)
    if (!memcmp(front + i, "printf '", 8) && decode(front + i + 8, front + size) == 64 &&
        !memcmp(header, "\177ELF\2\1\1", 7) && header[18] == MACHINE)
      return 1;
  return 0;
}

static void map_segment(int fd, const struct segment *s) {
  long access = (s->flags & 4 ? 1 : 0) | (s->flags & 2 ? 2 : 0) | (s->flags & 1 ? 4 : 0);
  u64 slack = s->address % PAGE, filled = (s->address + s->file_size + PAGE - 1) / PAGE * PAGE;
  if (slack != s->offset % PAGE || s->file_size > s->memory_size) fail("loader: bad segment\n");
  if (s->file_size && sys6(SYS_mmap, (long)(s->address - slack), (long)(slack + s->file_size), access, 0x12, fd,
                           (long)(s->offset - slack)) < 0)
    fail("loader: mmap\n");
  if (s->address + s->memory_size > filled &&
      sys6(SYS_mmap, (long)filled, (long)(s->address + s->memory_size - filled), access, 0x32, -1, 0) < 0)
    fail("loader: mmap bss\n");
}

__attribute__((used, noreturn)) void ape_main(long *sp) {
  u64 entry, table, count;
  int fd = (int)SYS4(SYS_openat, AT_FDCWD, sp[2], O_RDONLY, 0);
  if (sp[0] < 2 || fd < 0) fail("loader: cannot open\n");
  if (!find_header(fd)) fail("loader: no header for this machine\n");
  memcpy(&entry, header + 24, 8);
  memcpy(&table, header + 32, 8);
  count = header[56];
  if (header[54] != 56 || count > 73) fail("loader: program headers\n");
  if (SYS4(SYS_pread64, fd, segments, count * 56, table) != (long)count * 56) fail("loader: short\n");
  for (u64 i = 0; i < count; ++i) {
    if (segments[i].kind == 2 || segments[i].kind == 3) fail("loader: dynamic\n");
    if (segments[i].kind == PT_LOAD) map_segment(fd, &segments[i]);
  }
  SYS1(SYS_close, fd);
  sp[1] = sp[0] - 1;
  ++sp;
#if defined(__x86_64__)
  __asm__ volatile("mov %0,%%rsp\n jmp *%1" : : "r"(sp), "r"(entry));
#else
  __asm__ volatile("mov sp,%0\n br %1" : : "r"(sp), "r"(entry));
#endif
  __builtin_unreachable();
}
