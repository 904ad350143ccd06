/* Linux system calls without a C library, for x86-64 and aarch64 (numbers: the kernel's unistd tables). */
#ifndef APE_SYSCALL_H
#define APE_SYSCALL_H

#include "table.h"

#if defined(__x86_64__)

enum { SYS_write = 1, SYS_close = 3, SYS_lseek = 8, SYS_mmap = 9, SYS_rt_sigprocmask = 14, SYS_pread64 = 17,
       SYS_pwrite64 = 18, SYS_getpid = 39, SYS_execve = 59, SYS_getcwd = 79, SYS_fchmod = 91, SYS_geteuid = 107,
       SYS_exit_group = 231, SYS_openat = 257, SYS_mkdirat = 258, SYS_newfstatat = 262, SYS_unlinkat = 263,
       SYS_renameat = 264, SYS_readlinkat = 267, SYS_fchmodat = 268, SYS_faccessat = 269 };

/* struct stat up to what we read (arch/x86/include/uapi/asm/stat.h) */
struct stat_head {
  u64 dev, ino, nlink;
  u32 mode, uid, gid, pad;
  u64 rdev, size;
  u64 rest[11];
};

static long sys6(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long r;
  __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return r;
}

/* The stack at entry is argc, argv, envp, auxv; it is only 8-aligned when APE's own loader shifted argv. */
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call ape_main\n hlt\n");

#elif defined(__aarch64__)

enum { SYS_getcwd = 17, SYS_mkdirat = 34, SYS_unlinkat = 35, SYS_renameat = 38, SYS_faccessat = 48, SYS_fchmod = 52,
       SYS_fchmodat = 53, SYS_openat = 56, SYS_close = 57, SYS_lseek = 62, SYS_write = 64, SYS_pread64 = 67,
       SYS_pwrite64 = 68, SYS_readlinkat = 78, SYS_newfstatat = 79, SYS_exit_group = 94, SYS_rt_sigprocmask = 135,
       SYS_getpid = 172, SYS_geteuid = 175, SYS_execve = 221, SYS_mmap = 222 };

/* struct stat up to what we read (include/uapi/asm-generic/stat.h) */
struct stat_head {
  u64 dev, ino;
  u32 mode, nlink, uid, gid;
  u64 rdev, pad, size;
  u64 rest[9];
};

static long sys6(long n, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}

/* See above; sp may not be used for access before it is 16-aligned. */
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x30,#0\n mov x0,sp\n and x1,x0,#-16\n mov sp,x1\n bl ape_main\n"
        " brk #0\n");

#else
#error "no launcher for this machine"
#endif

#define SYS1(n, a) sys6(n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

enum { AT_FDCWD = -100, AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_CLOEXEC = 02000000 };
enum { S_IFMT = 0170000, S_IFDIR = 0040000, S_IFREG = 0100000, X_OK = 1, SEEK_END = 2 };
enum { AT_NULL = 0, AT_HWCAP = 16, AT_RANDOM = 25, AT_HWCAP2 = 26, AT_EXECFN = 31 };
enum { SIG_BLOCK = 0, SIG_SETMASK = 2 };

/* The compiler calls these by name even in freestanding code. */
void *memcpy(void *to, const void *from, unsigned long n) {
  u8 *d = to;
  const u8 *s = from;
  while (n--) *d++ = *s++;
  return to;
}

void *memset(void *to, int c, unsigned long n) {
  u8 *d = to;
  while (n--) *d++ = (u8)c;
  return to;
}

int memcmp(const void *a, const void *b, unsigned long n) {
  const u8 *x = a, *y = b;
  for (; n; --n, ++x, ++y)
    if (*x != *y) return *x - *y;
  return 0;
}

#endif
