/* What the slices of the tests are: says which one it is and what reached it, then does as its first argument says.
 *
 * Without a C library, whose compilation for three systems would cost a test run minutes.
 */
#include "text.h"

static char out[65536], line[65536];
static struct ape_text text = {out, sizeof out, 0, 0};

static void say(const char *name, const char *value) {
  ape_put(&text, name);
  ape_put(&text, "=");
  ape_put(&text, value);
  ape_put(&text, "\n");
}

static int number(const char *digits) {
  int n = 0;
  for (; *digits; ++digits) n = n * 10 + *digits - '0';
  return n;
}

#if defined(__APPLE__)

int main(void) { return 0; }

#else

static void write_out(const char *data, u64 size);
static long read_in(char *data, u64 size);
static const char *get_variable(const char *name);
static int wait_for_signal(void);

static int run(long argc, char **argv, u64 pid) {
  say("slice", SLICE);
  ape_put(&text, "pid=");
  ape_put_number(&text, pid);
  ape_put(&text, "\n");
  say("file", get_variable("APE_FILE"));
  say("zero", argv[0]);
  for (long i = 1; i < argc; ++i) say("arg", argv[i]);
  if (argc > 2 && ape_same(argv[1], "getenv")) say("env", get_variable(argv[2]));
  if (argc > 1 && ape_same(argv[1], "wait")) ape_put(&text, "ready\n");
  write_out(out, text.used);
  if (argc > 2 && ape_same(argv[1], "exit")) return number(argv[2]);
  if (argc > 1 && ape_same(argv[1], "wait")) return wait_for_signal();
  if (argc > 1 && ape_same(argv[1], "cat"))
    for (long n; (n = read_in(line, sizeof line)) > 0;) write_out(line, (u64)n);
  return 0;
}

#if defined(_WIN32)

#include <windows.h>
#include <shellapi.h>

void *memcpy(void *to, const void *from, size_t n) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return to;
}

static char words[65536], *argv[64];
static u64 used;

static char *narrow(const WCHAR *wide) {
  char *to = words + used;
  used += (u64)WideCharToMultiByte(CP_UTF8, 0, wide, -1, to, (int)(sizeof words - used), 0, 0);
  return to;
}

static void write_out(const char *data, u64 size) {
  DWORD done;
  WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), data, (DWORD)size, &done, 0);
}

static long read_in(char *data, u64 size) {
  DWORD done = 0;
  return ReadFile(GetStdHandle(STD_INPUT_HANDLE), data, (DWORD)size, &done, 0) ? (long)done : 0;
}

static const char *get_variable(const char *name) {
  static WCHAR value[32768], wide[256];
  MultiByteToWideChar(CP_UTF8, 0, name, -1, wide, 256);
  return GetEnvironmentVariableW(wide, value, 32768) ? narrow(value) : "(none)";
}

static int wait_for_signal(void) {
  Sleep(60000);
  return 0;
}

void start(void) {
  int argc;
  WCHAR **wide = CommandLineToArgvW(GetCommandLineW(), &argc);
  for (int i = 0; i < argc && i < 63; ++i) argv[i] = narrow(wide[i]);
  ExitProcess((UINT)run(argc, argv, GetCurrentProcessId()));
}

#else

#include "syscall.h"

#if defined(__x86_64__)
enum { SYS_read = 0, SYS_rt_sigtimedwait = 128 };
#else
enum { SYS_read = 63, SYS_rt_sigtimedwait = 137 };
#endif

static char **environment;

static void write_out(const char *data, u64 size) { SYS3(SYS_write, 1, data, size); }
static long read_in(char *data, u64 size) { return SYS3(SYS_read, 0, data, size); }

static const char *get_variable(const char *name) {
  for (char **e = environment; *e; ++e) {
    const char *at = *e, *n = name;
    while (*n && *at == *n) ++at, ++n;
    if (!*n && *at == '=') return at + 1;
  }
  return "(none)";
}

static int wait_for_signal(void) {
  u64 term = 1u << (15 - 1);
  if (SYS4(SYS_rt_sigtimedwait, &term, 0, 0, 8) != 15) return 1;
  write_out("caught\n", 7);
  return 40;
}

__attribute__((used, noreturn)) void ape_main(long *sp) {
  u64 term = 1u << (15 - 1);
  char **argv = (char **)(sp + 1);
  environment = argv + sp[0] + 1;
  SYS4(SYS_rt_sigprocmask, SIG_BLOCK, &term, 0, 8);
  SYS1(SYS_exit_group, run(sp[0], argv, (u64)SYS1(SYS_getpid, 0)));
  __builtin_unreachable();
}

#endif
#endif
