/* The Windows launcher: the PE that lies across the container's start. kernel32 only, no C runtime.
 *
 *   1. the container is this very module;
 *   2. choose the slice by cpuid and XCR0, or by APE_SLICE;
 *   3. unpack it once, atomically, to %LOCALAPPDATA%\ape\SHA256\PROGRAM.exe, else below %TEMP%;
 *   4. start it with the same command line, handles and console, and APE_FILE; end with its exit code.
 */
#include "choose.h"
#include "cpu.h"
#include "sha256.h"
#include "text.h"

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

APE_PLACEHOLDER;

#define PATH_SIZE 32768 /* the longest path of the wide interface */

static WCHAR container[PATH_SIZE], folder[PATH_SIZE], file[PATH_SIZE], temporary[PATH_SIZE];
static WCHAR wide[PATH_SIZE];
static char narrow[PATH_SIZE], message[PATH_SIZE];
static u8 buffer[256 * 1024];
static HANDLE child;

/* The compiler calls these by name even in freestanding code. */
void *memcpy(void *to, const void *from, size_t n) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return to;
}

void *memset(void *to, int c, size_t n) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
  return to;
}

/* Writes to a console as UTF-16 and to a pipe or file as UTF-8. */
static void write_error(const char *text, int size) {
  HANDLE out = GetStdHandle(STD_ERROR_HANDLE);
  DWORD mode, done;
  if (GetConsoleMode(out, &mode)) {
    int n = MultiByteToWideChar(CP_UTF8, 0, text, size, wide, PATH_SIZE);
    WriteConsoleW(out, wide, (DWORD)n, &done, 0);
  } else {
    WriteFile(out, text, (DWORD)size, &done, 0);
  }
}

__attribute__((noreturn)) static void fail(const struct ape_table *table, UINT code, const char *what,
                                           const WCHAR *path, DWORD error) {
  struct ape_text text = {message, sizeof message, 0, 0};
  ape_put(&text, "ape: ");
  ape_put(&text, table->program);
  ape_put(&text, ": ");
  ape_put(&text, what);
  if (path) {
    narrow[0] = 0;
    WideCharToMultiByte(CP_UTF8, 0, path, -1, narrow, sizeof narrow, 0, 0);
    ape_put(&text, narrow);
  }
  if (error) {
    ape_put(&text, ": Windows error ");
    ape_put_number(&text, error);
  }
  ape_put(&text, "\r\n");
  write_error(message, (int)text.used);
  ExitProcess(code);
}

static int append(WCHAR *to, const WCHAR *s) {
  int at = lstrlenW(to), n = lstrlenW(s);
  if (at + n + 1 > PATH_SIZE) return 0;
  memcpy(to + at, s, (size_t)(n + 1) * sizeof *s);
  return 1;
}

/* ASCII only: hashes, numbers. */
static int append_text(WCHAR *to, const char *s) {
  WCHAR one[2] = {0, 0};
  for (; *s; ++s) {
    one[0] = (u8)*s;
    if (!append(to, one)) return 0;
  }
  return 1;
}

static int is_good(const struct ape_slice *slice) {
  WIN32_FILE_ATTRIBUTE_DATA data;
  if (!GetFileAttributesExW(file, GetFileExInfoStandard, &data)) return 0;
  return !(data.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) &&
         ((u64)data.nFileSizeHigh << 32 | data.nFileSizeLow) == slice->size;
}

static void make_folders(WCHAR *path) {
  for (WCHAR *at = path;; ++at) {
    if (*at && *at != L'\\') continue;
    WCHAR kept = *at;
    *at = 0;
    CreateDirectoryW(path, 0); /* fails for what is there already, and for "C:" */
    *at = kept;
    if (!kept) return;
  }
}

static void discard(void) {
  DeleteFileW(temporary);
  RemoveDirectoryW(folder); /* keeps one that holds another start's file */
}

/* 1 done, 0 no room there. A container that is too short or altered ends here. */
static int copy_slice(const struct ape_table *table, const struct ape_slice *slice, HANDLE from, HANDLE to) {
  struct ape_sha256 hash;
  LARGE_INTEGER at = {.QuadPart = (LONGLONG)slice->offset};
  ape_sha256_start(&hash);
  SetFilePointerEx(from, at, 0, FILE_BEGIN);
  for (u64 done = 0; done < slice->size;) {
    u64 left = slice->size - done;
    DWORD n = 0, written = 0;
    if (!ReadFile(from, buffer, left < sizeof buffer ? (DWORD)left : (DWORD)sizeof buffer, &n, 0) || !n) {
      CloseHandle(to);
      discard();
      fail(table, APE_CANNOT, "truncated: the file ends inside its slice: ", container, 0);
    }
    ape_sha256_add(&hash, buffer, n);
    if (!WriteFile(to, buffer, n, &written, 0) || written != n) return 0;
    done += n;
  }
  if (ape_sha256_is(&hash, slice->sha256)) return 1;
  CloseHandle(to);
  discard();
  fail(table, APE_CANNOT, "altered: wrong SHA-256 of its slice: ", container, 0);
}

static int name_temporary(void) {
  LARGE_INTEGER ticks;
  char digits[64];
  struct ape_text text = {digits, sizeof digits, 0, 0};
  QueryPerformanceCounter(&ticks);
  ape_put(&text, "\\tmp.");
  ape_put_number(&text, GetCurrentProcessId());
  ape_put(&text, ".");
  ape_put_number(&text, (u64)ticks.QuadPart);
  temporary[0] = 0;
  return append(temporary, folder) && append_text(temporary, digits);
}

static int unpack(const struct ape_table *table, const struct ape_slice *slice, HANDLE from) {
  make_folders(folder);
  if (!name_temporary()) return 0;
  HANDLE to = CreateFileW(temporary, GENERIC_WRITE, 0, 0, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, 0);
  if (to == INVALID_HANDLE_VALUE) return 0;
  int done = copy_slice(table, slice, from, to);
  if (!CloseHandle(to)) done = 0;
  /* Replacing fails while another first start already runs the file it put there: then that one is as good. */
  if (!done || !MoveFileExW(temporary, file, MOVEFILE_REPLACE_EXISTING)) discard();
  return is_good(slice);
}

static int try_place(const struct ape_table *table, const struct ape_slice *slice, HANDLE from, DWORD length) {
  char hex[65];
  struct ape_text text = {hex, sizeof hex, 0, 0};
  if (!length || length >= PATH_SIZE) return 0;
  while (length && folder[length - 1] == L'\\') folder[--length] = 0;
  ape_put_hex(&text, slice->sha256, 32);
  if (!append(folder, L"\\ape\\") || !append_text(folder, hex)) return 0;
  if (!MultiByteToWideChar(CP_UTF8, 0, table->program, -1, wide, PATH_SIZE)) return 0;
  file[0] = 0;
  if (!append(file, folder) || !append(file, L"\\") || !append(file, wide) || !append(file, L".exe")) return 0;
  return is_good(slice) || unpack(table, slice, from);
}

static HANDLE open_container(const struct ape_table *table) {
  HANDLE from;
  DWORD n = GetModuleFileNameW(0, container, PATH_SIZE);
  if (!n || n >= PATH_SIZE) fail(table, APE_CANNOT, "cannot find my own file", 0, GetLastError());
  from = CreateFileW(container, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, 0, OPEN_EXISTING,
                     FILE_ATTRIBUTE_NORMAL, 0);
  if (from == INVALID_HANDLE_VALUE) fail(table, APE_CANNOT, "cannot read ", container, GetLastError());
  return from;
}

static const struct ape_slice *choose(const struct ape_table *table) {
  static char why[8192];
  u32 have[APE_WORDS] = {0};
  int code = APE_CANNOT;
  struct ape_text text = {why, sizeof why, 0, 0};
  ape_read_cpu(have);
  narrow[0] = 0;
  DWORD n = GetEnvironmentVariableW(L"APE_SLICE", wide, PATH_SIZE);
  if (n && n < PATH_SIZE) WideCharToMultiByte(CP_UTF8, 0, wide, -1, narrow, sizeof narrow, 0, 0);
  const struct ape_slice *slice = ape_choose(table, "windows-x86_64", narrow, have, &text, &code);
  if (!slice) fail(table, (UINT)code, why, 0, 0);
  return slice;
}

static void prepare(const struct ape_table *table, const struct ape_slice *slice) {
  HANDLE from = open_container(table);
  LARGE_INTEGER size;
  if (!GetFileSizeEx(from, &size) || (u64)size.QuadPart < slice->offset + slice->size)
    fail(table, APE_CANNOT, "truncated: the file ends before its slice: ", container, 0);
  if (!try_place(table, slice, from, GetEnvironmentVariableW(L"LOCALAPPDATA", folder, PATH_SIZE)) &&
      !try_place(table, slice, from, GetTempPathW(PATH_SIZE, folder)))
    fail(table, APE_CANNOT, "nowhere to unpack: need a folder with room in LOCALAPPDATA or TEMP", 0, GetLastError());
  CloseHandle(from);
}

/* Ctrl-C goes to the child too, which shares the console: it decides. On close and shutdown we outlast it. */
static BOOL WINAPI on_control(DWORD event) {
  if (event == CTRL_C_EVENT || event == CTRL_BREAK_EVENT) return TRUE;
  if (child) WaitForSingleObject(child, INFINITE);
  return TRUE;
}

/* The child dies with us, however we die; what the child starts is its own business. */
static HANDLE make_job(void) {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits;
  memset(&limits, 0, sizeof limits);
  limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
  HANDLE job = CreateJobObjectW(0, 0);
  if (job) SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);
  return job;
}

static void keep_handle(HANDLE *slot, DWORD which) {
  *slot = GetStdHandle(which);
  if (*slot && *slot != INVALID_HANDLE_VALUE) SetHandleInformation(*slot, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT);
}

void __attribute__((used)) ape_main(void) {
  const struct ape_table *table = ape_linked_table(&ape_placeholder);
  static STARTUPINFOW start;
  PROCESS_INFORMATION process;
  DWORD code = APE_CANNOT;
  if (!table->offset) fail(table, APE_CANNOT, "this launcher is not linked into a file", 0, 0);
  const struct ape_slice *slice = choose(table);
  prepare(table, slice);
  SetEnvironmentVariableW(L"APE_FILE", container);
  SetConsoleCtrlHandler(on_control, TRUE);
  GetStartupInfoW(&start); /* with lpReserved2, in which C run-times hand on their file descriptors */
  start.lpReserved = 0;
  start.dwFlags |= STARTF_USESTDHANDLES;
  keep_handle(&start.hStdInput, STD_INPUT_HANDLE);
  keep_handle(&start.hStdOutput, STD_OUTPUT_HANDLE);
  keep_handle(&start.hStdError, STD_ERROR_HANDLE);
  HANDLE job = make_job();
  /* The command line stays as it is, argv[0] included: nothing is parsed, so nothing is quoted wrongly. */
  if (!CreateProcessW(file, GetCommandLineW(), 0, 0, TRUE, CREATE_SUSPENDED, 0, 0, &start, &process))
    fail(table, APE_CANNOT, "cannot start ", file, GetLastError());
  child = process.hProcess;
  if (job) AssignProcessToJobObject(job, child);
  ResumeThread(process.hThread);
  CloseHandle(process.hThread);
  WaitForSingleObject(child, INFINITE);
  GetExitCodeProcess(child, &code);
  ExitProcess(code);
}
