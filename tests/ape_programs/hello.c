/* What the slices of the tests are: says which one it is and what reached it, then does as its first argument says. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#include <shellapi.h>
#define getpid() (int)GetCurrentProcessId()
#define pause() Sleep(60000)
#else
#include <unistd.h>
#endif

#ifndef _WIN32
static void on_term(int number) {
  (void)number;
  write(1, "caught\n", 7);
  _exit(40);
}
#endif

static int run(int argc, char **argv, const char *file) {
  printf("slice=%s\npid=%d\nfile=%s\nzero=%s\n", SLICE, (int)getpid(), file, argv[0]);
  for (int i = 1; i < argc; ++i) printf("arg=%s\n", argv[i]);
  fflush(stdout);
  if (argc > 2 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
  if (argc > 1 && !strcmp(argv[1], "cat"))
    for (int c; (c = getchar()) != EOF;) putchar(c);
  if (argc > 2 && !strcmp(argv[1], "getenv")) printf("env=%s\n", getenv(argv[2]) ? getenv(argv[2]) : "(none)");
  if (argc > 1 && !strcmp(argv[1], "wait")) {
#ifndef _WIN32
    signal(SIGTERM, on_term);
#endif
    puts("ready");
    fflush(stdout);
    pause();
  }
  return 0;
}

#ifdef _WIN32
static char *narrow(const wchar_t *wide) {
  int size = WideCharToMultiByte(CP_UTF8, 0, wide, -1, 0, 0, 0, 0);
  char *out = malloc((size_t)size);
  WideCharToMultiByte(CP_UTF8, 0, wide, -1, out, size, 0, 0);
  return out;
}

int main(void) {
  static wchar_t file[32768];
  static char *argv[64];
  int argc;
  wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &argc);
  for (int i = 0; i < argc && i < 63; ++i) argv[i] = narrow(wide[i]);
  GetEnvironmentVariableW(L"APE_FILE", file, 32768);
  _setmode(0, _O_BINARY);
  _setmode(1, _O_BINARY);
  return run(argc, argv, narrow(file));
}
#else
int main(int argc, char **argv) {
  const char *file = getenv("APE_FILE");
  return run(argc, argv, file ? file : "(none)");
}
#endif
