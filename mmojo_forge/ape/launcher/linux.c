/* The Linux launcher: a static ELF without a C library, which lies inside the container.
 *
 * It is reached when the file's printf'ed ELF header is used: by APE's own loader, by binfmt_misc, or by the
 * kernel once that header has been written to offset 0 (--assimilate). It does what the shell part
 * (ape/script.py) does; the two must agree on names, places and exit codes:
 *   1. find the container: AT_EXECFN, /proc/self/exe, argv[0], whichever carries this very table;
 *   2. choose the slice by CPU, or by APE_SLICE;
 *   3. unpack it once, atomically, to CACHE/ape/SHA256/PROGRAM;
 *   4. execve it with everything as it was, and APE_FILE.
 */
#include "choose.h"
#include "cpu.h"
#include "sha256.h"
#include "syscall.h"
#include "text.h"

APE_PLACEHOLDER;

#define PATH_SIZE 8192

#if defined(__x86_64__)
#define SYSTEM "linux-x86_64"
#else
#define SYSTEM "linux-aarch64"
#endif

struct start {
  long argc;
  char **argv, **envp;
  u64 *auxv;
  const struct ape_table *table;
  const struct ape_slice *slice;
  int fd; /* of the container */
};

struct path {
  char data[PATH_SIZE];
  struct ape_text text;
};

/* Static: the stack may be small, and a large bss makes APE's own loader clear the tail of our last page. */
static struct path container, folder, file, temporary;
static u8 buffer[256 * 1024];

static void begin(struct path *p) { p->text = (struct ape_text){p->data, PATH_SIZE, 0, 0}; }

__attribute__((noreturn)) static void fail(const struct ape_table *table, int code, const char *a, const char *b) {
  begin(&temporary);
  ape_put(&temporary.text, "ape: ");
  ape_put(&temporary.text, table->program);
  ape_put(&temporary.text, ": ");
  ape_put(&temporary.text, a);
  ape_put(&temporary.text, b);
  ape_put(&temporary.text, "\n");
  SYS3(SYS_write, 2, temporary.data, temporary.text.used);
  SYS1(SYS_exit_group, code);
  __builtin_unreachable();
}

static u64 auxiliary(const struct start *s, u64 type) {
  for (const u64 *a = s->auxv; a[0] != AT_NULL; a += 2)
    if (a[0] == type) return a[1];
  return 0;
}

static const char *variable(const struct start *s, const char *name) {
  for (char **e = s->envp; *e; ++e) {
    const char *at = *e, *n = name;
    while (*n && *at == *n) ++at, ++n;
    if (!*n && *at == '=') return at + 1;
  }
  return "";
}

static int carries_table(int fd, const struct ape_table *table) {
  long got = SYS4(SYS_pread64, fd, buffer, sizeof *table, table->offset);
  return got == (long)sizeof *table && !memcmp(buffer, table, sizeof *table);
}

static int try_container(struct start *s, const char *name) {
  if (!name || !*name) return 0;
  s->fd = (int)SYS4(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
  if (s->fd < 0) return 0;
  if (!carries_table(s->fd, s->table)) {
    SYS1(SYS_close, s->fd);
    return 0;
  }
  begin(&container);
  if (ape_same(name, "/proc/self/exe")) {
    long n = SYS4(SYS_readlinkat, AT_FDCWD, name, container.data, PATH_SIZE - 1);
    if (n > 0) {
      container.data[n] = 0;
      return 1;
    }
  }
  if (*name != '/' && SYS2(SYS_getcwd, container.data, PATH_SIZE) > 0) {
    while (container.data[container.text.used]) ++container.text.used;
    ape_put(&container.text, "/");
    if (name[0] == '.' && name[1] == '/') name += 2;
  }
  ape_put(&container.text, name);
  return 1;
}

static int find_container(struct start *s) {
  return try_container(s, (const char *)auxiliary(s, AT_EXECFN)) || try_container(s, "/proc/self/exe") ||
         try_container(s, s->argc > 0 ? s->argv[0] : 0);
}

static void read_cpu(const struct start *s, u32 have[APE_WORDS]) {
#if defined(__x86_64__)
  (void)s;
  ape_read_cpu(have);
#else
  u64 one = auxiliary(s, AT_HWCAP), two = auxiliary(s, AT_HWCAP2);
  have[0] = (u32)one, have[1] = (u32)(one >> 32), have[2] = (u32)two, have[3] = (u32)(two >> 32);
#endif
}

static int is_mine(const char *path, u32 kind, int flags, u64 size) {
  struct stat_head st;
  if (SYS4(SYS_newfstatat, AT_FDCWD, path, &st, flags)) return 0;
  if ((st.mode & S_IFMT) != kind || st.uid != (u32)SYS1(SYS_geteuid, 0)) return 0;
  return kind == S_IFDIR || st.size == size;
}

/* A copy we wrote ourselves, of the right size, on a file system that lets us start it. */
static int is_good(const struct start *s) {
  return is_mine(file.data, S_IFREG, 0, s->slice->size) &&
         !SYS3(SYS_faccessat, AT_FDCWD, file.data, X_OK);
}

static void make_folders(char *path) {
  for (char *at = path + 1;; ++at) {
    if (*at && *at != '/') continue;
    char kept = *at;
    *at = 0;
    SYS3(SYS_mkdirat, AT_FDCWD, path, 0700);
    *at = kept;
    if (!kept) return;
  }
}

static int write_all(int fd, const u8 *data, long size) {
  while (size > 0) {
    long n = SYS3(SYS_write, fd, data, size);
    if (n == -4) continue; /* EINTR */
    if (n <= 0) return 0;
    data += n, size -= n;
  }
  return 1;
}

static void discard(void) {
  SYS3(SYS_unlinkat, AT_FDCWD, temporary.data, 0);
  SYS3(SYS_unlinkat, AT_FDCWD, folder.data, AT_REMOVEDIR); /* keeps one that holds another start's file */
}

/* Copies the slice to `to`: 1 done, 0 no room there. A container that is too short or altered ends here. */
static int copy_slice(const struct start *s, int to) {
  struct ape_sha256 hash;
  ape_sha256_start(&hash);
  for (u64 done = 0; done < s->slice->size;) {
    u64 left = s->slice->size - done;
    long n = SYS4(SYS_pread64, s->fd, buffer, left < sizeof buffer ? left : sizeof buffer, s->slice->offset + done);
    if (n <= 0) {
      discard();
      fail(s->table, APE_CANNOT, "truncated: the file ends before slice ", s->slice->name);
    }
    ape_sha256_add(&hash, buffer, (u64)n);
    if (!write_all(to, buffer, n)) return 0;
    done += (u64)n;
  }
  if (!ape_sha256_is(&hash, s->slice->sha256)) {
    discard();
    fail(s->table, APE_CANNOT, "altered: wrong SHA-256 of slice ", s->slice->name);
  }
  return 1;
}

static void name_temporary(const struct start *s) {
  const u8 *random = (const u8 *)auxiliary(s, AT_RANDOM);
  begin(&temporary);
  ape_put(&temporary.text, folder.data);
  ape_put(&temporary.text, "/.tmp.");
  ape_put_number(&temporary.text, (u64)SYS1(SYS_getpid, 0));
  ape_put(&temporary.text, ".");
  if (random) ape_put_hex(&temporary.text, random, 8);
}

static int unpack(const struct start *s) {
  u64 old, block = 1u << (1 - 1) | 1u << (2 - 1) | 1u << (13 - 1) | 1u << (15 - 1); /* HUP INT PIPE TERM */
  make_folders(folder.data);
  if (!is_mine(folder.data, S_IFDIR, AT_SYMLINK_NOFOLLOW, 0)) return 0;
  /* A signal in these milliseconds is delivered after them, so that it leaves no half file behind. */
  SYS4(SYS_rt_sigprocmask, SIG_BLOCK, &block, &old, 8);
  name_temporary(s);
  int to = (int)SYS4(SYS_openat, AT_FDCWD, temporary.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  int done = to >= 0 && copy_slice(s, to) && !SYS2(SYS_fchmod, to, 0700);
  if (to >= 0 && SYS1(SYS_close, to)) done = 0;
  if (done && SYS4(SYS_renameat, AT_FDCWD, temporary.data, AT_FDCWD, file.data)) done = 0;
  if (!done) discard();
  SYS4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
  return done && is_good(s);
}

/* True once `file` names a good copy below `root`/`below`; `owned` must not belong to somebody else. */
static int try_place(const struct start *s, const char *owned, const char *below) {
  struct stat_head st;
  if (*owned != '/') return 0;
  if (!SYS4(SYS_newfstatat, AT_FDCWD, owned, &st, 0) && st.uid != (u32)SYS1(SYS_geteuid, 0)) return 0;
  begin(&folder);
  ape_put(&folder.text, owned);
  ape_put(&folder.text, below);
  ape_put(&folder.text, "/");
  ape_put_hex(&folder.text, s->slice->sha256, 32);
  begin(&file);
  ape_put(&file.text, folder.data);
  ape_put(&file.text, "/");
  ape_put(&file.text, s->table->program);
  if (file.text.used + 64 > PATH_SIZE) return 0;
  return is_good(s) || unpack(s);
}

/* TMPDIR and /tmp are shared: only a folder of ours that nobody else may write to will do. */
static int try_shared(const struct start *s, const char *root) {
  static char name[PATH_SIZE];
  struct ape_text text = {name, PATH_SIZE, 0, 0};
  if (*root != '/') return 0;
  ape_put(&text, root);
  ape_put(&text, "/ape-");
  ape_put_number(&text, (u64)SYS1(SYS_geteuid, 0));
  if (text.overflow) return 0;
  SYS3(SYS_mkdirat, AT_FDCWD, name, 0700);
  if (!is_mine(name, S_IFDIR, AT_SYMLINK_NOFOLLOW, 0) || SYS3(SYS_fchmodat, AT_FDCWD, name, 0700)) return 0;
  return try_place(s, name, "");
}

static int place(const struct start *s) {
  const char *cache = variable(s, "XDG_CACHE_HOME");
  if (*cache == '/' ? try_place(s, cache, "/ape") : try_place(s, variable(s, "HOME"), "/.cache/ape")) return 1;
  return try_shared(s, variable(s, "TMPDIR")) || try_shared(s, "/tmp");
}

/* The environment with APE_FILE, in memory of its own: there is no room to grow where the kernel put it. */
static char **environment(const struct start *s) {
  static char entry[PATH_SIZE + 16];
  struct ape_text text = {entry, sizeof entry, 0, 0};
  u64 count = 0, used = 0;
  while (s->envp[count]) ++count;
  char **out = (char **)sys6(SYS_mmap, 0, (long)((count + 2) * sizeof *out), 3, 0x22, -1, 0);
  if ((u64)out > -4096ul) fail(s->table, APE_CANNOT, "no memory", "");
  for (u64 i = 0; i < count; ++i)
    if (memcmp(s->envp[i], "APE_FILE=", 9)) out[used++] = s->envp[i];
  ape_put(&text, "APE_FILE=");
  ape_put(&text, container.data);
  out[used++] = entry;
  out[used] = 0;
  return out;
}

static void assimilate(struct start *s) {
  int fd = (int)SYS4(SYS_openat, AT_FDCWD, container.data, O_RDWR | O_CLOEXEC, 0);
  if (SYS4(SYS_pread64, s->fd, buffer, 64, 0) == 64 && !memcmp(buffer, s->table->header, 64))
    SYS1(SYS_exit_group, 0); /* it is one already, and the kernel keeps it from being written while it runs */
  /* A store's object and its blob are one file with two names; writing to one would spoil the other. */
  struct stat_head stat;
  if (fd >= 0 && SYS4(SYS_newfstatat, AT_FDCWD, container.data, &stat, 0) == 0 && stat.nlink != 1)
    fail(s->table, 121, "it has several hard links, as in a store: assimilate a copy of ", container.data);
  if (fd < 0 || SYS4(SYS_pwrite64, fd, s->table->header, 64, 0) != 64)
    fail(s->table, 121, "cannot write the ELF header to ", container.data);
  SYS1(SYS_exit_group, 0);
}

__attribute__((used, noreturn)) void ape_main(long *sp) {
  struct start s = {.argc = sp[0], .argv = (char **)(sp + 1), .table = ape_linked_table(&ape_placeholder)};
  u32 have[APE_WORDS] = {0};
  int code = APE_CANNOT;
  s.envp = s.argv + s.argc + 1;
  char **end = s.envp;
  while (*end) ++end;
  s.auxv = (u64 *)(end + 1);
  if (!s.table->offset) fail(s.table, APE_CANNOT, "this launcher is not linked into a file", "");
  if (!find_container(&s)) fail(s.table, APE_CANNOT, "cannot find or read my own file", "");
  if (s.argc == 2 && ape_same(s.argv[1], "--assimilate")) assimilate(&s);
  read_cpu(&s, have);
  begin(&file);
  s.slice = ape_choose(s.table, SYSTEM, variable(&s, "APE_SLICE"), have, &file.text, &code);
  if (!s.slice) fail(s.table, code, file.data, "");
  if (SYS3(SYS_lseek, s.fd, 0, SEEK_END) < (long)(s.slice->offset + s.slice->size))
    fail(s.table, APE_CANNOT, "truncated: the file ends before slice ", s.slice->name);
  if (!place(&s))
    fail(s.table, APE_CANNOT, "nowhere to unpack: need a folder of yours with room in XDG_CACHE_HOME, HOME or TMPDIR", "");
  SYS3(SYS_execve, file.data, s.argv, environment(&s));
  fail(s.table, APE_CANNOT, "cannot start ", file.data);
}
