// The zip at the end of a program's own file. The format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.4.
//
//   1. The end record is searched backwards from the end; a signature (Authenticode) may stand behind it.
//   2. The directory is read whole and checked: every entry within the file, no name twice.
//   3. An entry's content begins behind its local header, which is read when the entry is opened.
#include "mmojo-container.h"

#include "ggml-impl.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

#if defined(_WIN32)
#    define WIN32_LEAN_AND_MEAN
#    ifndef NOMINMAX
#        define NOMINMAX
#    endif
#    include <windows.h>
#    define mmojo_seek _fseeki64
#    define mmojo_tell _ftelli64
#else
#    include <sys/stat.h>
#    include <unistd.h>
#    define mmojo_seek fseeko
#    define mmojo_tell ftello
#endif
#if defined(__APPLE__)
#    include <mach-o/dyld.h>
#endif
#if defined(__linux__)
#    include <sys/auxv.h>
#endif

// Only its inflate is used.
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#if defined(__GNUC__)
#    pragma GCC diagnostic push
#    pragma GCC diagnostic ignored "-Wunused-function"
#    pragma GCC diagnostic ignored "-Wcast-qual"
#    pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#include "../../vendor/stb/stb_image.h"
#if defined(__GNUC__)
#    pragma GCC diagnostic pop
#endif

namespace {

constexpr char     PREFIX[]        = "/zip/";
constexpr size_t   END_SIZE        = 22;
constexpr size_t   LOCATOR_SIZE    = 20;
constexpr size_t   ZIP64_SIZE      = 56;
constexpr size_t   DIRECTORY_SIZE  = 46;
constexpr size_t   LOCAL_SIZE      = 30;
constexpr uint64_t TAIL            = 256 * 1024;         // a comment is at most 64 KiB, a signature some 10
constexpr uint64_t LARGEST_WHOLE   = 256 * 1024 * 1024;  // of what is read into memory at once

struct closer {
    void operator()(FILE * file) const { fclose(file); }
};
using file_ptr = std::unique_ptr<FILE, closer>;

[[noreturn]] void fail(const std::string & what, const std::string & why) {
    throw std::runtime_error(what + ": " + why);
}

uint64_t number(const std::string & bytes, size_t at, int width) {
    if (at + width > bytes.size()) {
        throw std::runtime_error("it ends too early");
    }
    uint64_t value = 0;
    for (int i = width; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    }
    return value;
}

file_ptr open_if_there(const std::string & path) {
#if defined(_WIN32)
    std::wstring wide(path.size() + 1, L'\0');
    MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, &wide[0], static_cast<int>(wide.size()));
    return file_ptr(_wfopen(wide.c_str(), L"rb"));
#else
    return file_ptr(fopen(path.c_str(), "rb"));
#endif
}

file_ptr open_file(const std::string & path) {
    file_ptr file = open_if_there(path);
    if (!file) {
        fail(path, std::strerror(errno));
    }
    return file;
}

std::string read_at(FILE * file, uint64_t offset, uint64_t size) {
    std::string bytes(size, '\0');
    if (mmojo_seek(file, static_cast<int64_t>(offset), SEEK_SET) != 0 || fread(&bytes[0], 1, size, file) != size) {
        throw std::runtime_error("it ends too early");
    }
    return bytes;
}

uint64_t size_of(FILE * file) {
    if (mmojo_seek(file, 0, SEEK_END) != 0) {
        throw std::runtime_error(std::strerror(errno));
    }
    return static_cast<uint64_t>(mmojo_tell(file));
}

struct directory {
    uint64_t offset, size, count;
};

// Whether an end record at `at` of `tail`, which is what lies behind `from`, says where a directory lies. Its bytes
// may occur in any program by chance (they do in this one): the directory must end where the end records begin.
bool read_end(FILE * file, const std::string & tail, uint64_t from, size_t at, directory & found) {
    if (at + END_SIZE > tail.size() || at + END_SIZE + number(tail, at + 20, 2) > tail.size()) {
        return false;
    }
    uint64_t end = from + at;
    found = { number(tail, at + 16, 4), number(tail, at + 12, 4), number(tail, at + 10, 2) };
    if (at >= LOCATOR_SIZE && tail.compare(at - LOCATOR_SIZE, 4, "PK\6\7") == 0) {
        end = number(tail, at - LOCATOR_SIZE + 8, 8);
        if (end > from + at - LOCATOR_SIZE - ZIP64_SIZE) {
            return false;
        }
        const std::string big = read_at(file, end, ZIP64_SIZE);
        if (big.compare(0, 4, "PK\6\6") != 0) {
            return false;
        }
        found = { number(big, 48, 8), number(big, 40, 8), number(big, 32, 8) };
    }
    return found.offset <= end && found.size == end - found.offset && found.count <= found.size / DIRECTORY_SIZE &&
           (found.count == 0 || read_at(file, found.offset, 4) == "PK\1\2");
}

// Where the directory lies; false if no zip ends the file.
bool find_directory(FILE * file, uint64_t file_size, directory & found) {
    if (file_size < END_SIZE) {
        return false;
    }
    const uint64_t    from = file_size > TAIL ? file_size - TAIL : 0;
    const std::string tail = read_at(file, from, file_size - from);
    for (size_t at = tail.rfind("PK\5\6"); at != std::string::npos; at = at ? tail.rfind("PK\5\6", at - 1) : at - 1) {
        if (read_end(file, tail, from, at, found)) {
            return true;
        }
    }
    return false;
}

// The 64-bit values of an extra field stand for those that are all ones, in this order.
void read_wide(const std::string & extra, mmojo_entry & entry) {
    for (size_t at = 0; at + 4 <= extra.size();) {
        const size_t kind = number(extra, at, 2), size = number(extra, at + 2, 2);
        size_t       next = at + 4;
        if (kind == 1) {
            for (uint64_t * value : { &entry.size, &entry.packed, &entry.header }) {
                if (*value == 0xffffffffu) {
                    *value = number(extra, next, 8);
                    next += 8;
                }
            }
            return;
        }
        at += 4 + size;
    }
}

std::vector<mmojo_entry> read_directory(FILE * file, uint64_t file_size, const directory & where) {
    const std::string        bytes = read_at(file, where.offset, where.size);
    std::vector<mmojo_entry> entries;
    size_t                   at = 0;
    for (uint64_t i = 0; i < where.count; i++) {
        if (bytes.compare(at, 4, "PK\1\2") != 0) {
            throw std::runtime_error("its directory is damaged");
        }
        const uint64_t method = number(bytes, at + 10, 2);
        const size_t   name = number(bytes, at + 28, 2), extra = number(bytes, at + 30, 2);
        mmojo_entry    entry{ "", number(bytes, at + 42, 4), number(bytes, at + 20, 4), number(bytes, at + 24, 4),
                              static_cast<uint32_t>(number(bytes, at + 16, 4)), method == 0 };
        if (at + DIRECTORY_SIZE + name + extra > bytes.size()) {
            throw std::runtime_error("its directory is cut short");
        }
        entry.name = bytes.substr(at + DIRECTORY_SIZE, name);
        read_wide(bytes.substr(at + DIRECTORY_SIZE + name, extra), entry);
        if (entry.header > where.offset || entry.packed > where.offset - entry.header || where.offset > file_size) {
            throw std::runtime_error("its entry " + entry.name + " lies outside the file");
        }
        if (method != 0 && method != 8) {
            throw std::runtime_error("its entry " + entry.name + " is packed by a method other than deflate");
        }
        if (entry.stored && entry.size != entry.packed) {
            throw std::runtime_error("its entry " + entry.name + " has two sizes");
        }
        at += DIRECTORY_SIZE + name + extra + number(bytes, at + 32, 2);
        entries.push_back(std::move(entry));
    }
    std::sort(entries.begin(), entries.end(),
              [](const mmojo_entry & a, const mmojo_entry & b) { return a.name < b.name; });
    for (size_t i = 1; i < entries.size(); i++) {
        if (entries[i].name == entries[i - 1].name) {
            throw std::runtime_error("it has two entries named " + entries[i].name);
        }
    }
    return entries;
}

std::string executable() {
#if defined(_WIN32)
    std::wstring wide(32768, L'\0');
    const DWORD  n = GetModuleFileNameW(nullptr, &wide[0], static_cast<DWORD>(wide.size()));
    const int    m = WideCharToMultiByte(CP_UTF8, 0, wide.c_str(), static_cast<int>(n), nullptr, 0, nullptr, nullptr);
    std::string  path(m, '\0');
    WideCharToMultiByte(CP_UTF8, 0, wide.c_str(), static_cast<int>(n), &path[0], m, nullptr, nullptr);
    return path;
#elif defined(__APPLE__)
    uint32_t size = 0;
    _NSGetExecutablePath(nullptr, &size);
    std::string path(size, '\0');
    return _NSGetExecutablePath(&path[0], &size) == 0 ? std::string(path.c_str()) : "";
#else
    char    buffer[8192];
    ssize_t n = readlink("/proc/self/exe", buffer, sizeof buffer);
    if (n > 0) {
        return std::string(buffer, n);
    }
#    if defined(__linux__)
    const char * name = reinterpret_cast<const char *>(getauxval(AT_EXECFN)); // no /proc: as it was called
    return name ? name : "";
#    else
    return "";
#    endif
#endif
}

// This program's own file; for one that was started in the place of another (mmojo-modules.cpp), that one's.
std::string own_file() {
    const std::string path = executable();
    std::string       host, of;
    const bool        stands_in = mmojo_environment("MMOJO_HOST", host) && host == path && mmojo_environment("MMOJO_HOST_OF", of);
    return stands_in ? of : path;
}

// False if no zip ends the file, or it cannot be read: a program may be deleted while it runs, or only be executable.
bool read_zip(mmojo_container & container) {
    const file_ptr file = open_if_there(container.path);
    directory      where{};
    if (!file) {
        return false;
    }
    try {
        const uint64_t size = size_of(file.get());
        if (!find_directory(file.get(), size, where)) {
            return false;
        }
        container.entries = read_directory(file.get(), size, where);
    } catch (const std::runtime_error & error) {
        fail(container.path, std::string("damaged: ") + error.what());
    }
    return true;
}

mmojo_container find_container() {
    mmojo_container own, named;
    std::string     ape;
    mmojo_environment("APE_FILE", ape);
    own.path   = own_file();
    named.path = ape;
    mmojo_container * found = &own;
    if ((own.path.empty() || !read_zip(own)) && !ape.empty()) {
        if (!read_zip(named)) {
            open_file(ape); // which says why it cannot be read
            fail(ape, "damaged: no zip ends it; the file was cut short, get it again");
        }
        found = &named;
    }
#if defined(_WIN32)
    const size_t slash = found->path.find_last_of("/\\");
#else
    const size_t slash = found->path.rfind('/');
#endif
    found->folder = slash == std::string::npos ? "." : found->path.substr(0, slash);
    return std::move(*found);
}

uint64_t content_of(FILE * file, const mmojo_entry & entry) {
    const std::string local = read_at(file, entry.header, LOCAL_SIZE);
    if (local.compare(0, 4, "PK\3\4") != 0) {
        throw std::runtime_error("damaged: the entry has no local header");
    }
    return entry.header + LOCAL_SIZE + number(local, 26, 2) + number(local, 28, 2);
}

std::array<uint32_t, 256> crc32_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) {
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
        }
    }
    return table;
}

uint32_t crc32_of(const std::string & bytes) {
    static const std::array<uint32_t, 256> table = crc32_table();
    uint32_t crc = ~0u;
    for (const unsigned char byte : bytes) {
        crc = crc >> 8 ^ table[(crc ^ byte) & 255];
    }
    return ~crc;
}

} // namespace

const mmojo_entry * mmojo_container::find(const std::string & name) const {
    const auto found = std::lower_bound(entries.begin(), entries.end(), name,
                                        [](const mmojo_entry & entry, const std::string & key) { return entry.name < key; });
    return found != entries.end() && found->name == name ? &*found : nullptr;
}

std::string mmojo_container::read(const mmojo_entry & entry) const {
    const std::string what = PREFIX + entry.name;
    if (std::max(entry.size, entry.packed) > LARGEST_WHOLE) {
        fail(what, "too large to be read into memory");
    }
    std::string packed;
    try {
        const file_ptr file = open_file(path);
        packed = read_at(file.get(), content_of(file.get(), entry), entry.packed);
    } catch (const std::runtime_error & error) {
        fail(what, error.what());
    }
    std::string bytes = std::move(packed);
    if (!entry.stored) {
        std::string plain(entry.size, '\0');
        const int   got = stbi_zlib_decode_noheader_buffer(&plain[0], static_cast<int>(plain.size()), bytes.data(),
                                                           static_cast<int>(bytes.size()));
        if (got != static_cast<int>(entry.size)) {
            fail(what, "damaged: it cannot be inflated");
        }
        bytes = std::move(plain);
    }
    if (crc32_of(bytes) != entry.crc) {
        fail(what, "damaged: wrong CRC");
    }
    return bytes;
}

const mmojo_container & mmojo_own_container() {
    static const mmojo_container container = find_container();
    return container;
}

bool mmojo_is_inside(const char * path) {
    return std::strncmp(path, PREFIX, sizeof PREFIX - 1) == 0;
}

FILE * mmojo_open_inside(const char * path, uint64_t * offset, uint64_t * size) {
    try {
        const mmojo_container & container = mmojo_own_container();
        const mmojo_entry *     entry     = container.find(path + sizeof PREFIX - 1);
        if (!entry) {
            errno = ENOENT;
            return nullptr;
        }
        if (!entry->stored) {
            fail(path, "deflated, so it cannot be mapped; put it in with `forge package`, which stores models as they are");
        }
        file_ptr       file    = open_file(container.path);
        const uint64_t content = content_of(file.get(), *entry);
        if (mmojo_seek(file.get(), static_cast<int64_t>(content), SEEK_SET) != 0) {
            fail(path, std::strerror(errno));
        }
        if (offset) {
            *offset = content;
        }
        if (size) {
            *size = entry->size;
        }
        return file.release();
    } catch (const std::exception & error) {
        GGML_LOG_ERROR("%s\n", error.what());
        errno = EINVAL;
        return nullptr;
    }
}

bool mmojo_read_outside(const std::string & path, std::string & content) {
    errno = 0;
    file_ptr file = open_if_there(path);
    if (!file && errno == ENOENT) {
        return false;
    }
    if (!file) {
        fail(path, std::strerror(errno));
    }
    try {
        content = read_at(file.get(), 0, size_of(file.get()));
    } catch (const std::exception & error) {
        fail(path, std::string("cannot be read: ") + error.what());
    }
    return true;
}

std::string mmojo_distrusted(const std::string & path) {
#if defined(_WIN32)
    (void) path; // a folder of Windows has rights of its own, which its files have from it
    return "";
#else
    struct stat program{}, entry{}, target{};
    if (lstat(path.c_str(), &entry) != 0 || stat(path.c_str(), &target) != 0) {
        return "";
    }
    const bool known = stat(mmojo_own_container().path.c_str(), &program) == 0;
    for (const uid_t owner : { entry.st_uid, target.st_uid }) {
        if (owner != 0 && owner != geteuid() && !(known && owner == program.st_uid)) {
            return "it belongs to another user";
        }
    }
    return target.st_mode & ~program.st_mode & S_IWOTH ? "anybody may write to it" : "";
#endif
}

bool mmojo_environment(const std::string & name, std::string & value) {
#if defined(_WIN32)
    const std::wstring wide_name(name.begin(), name.end()); // names are ASCII
    std::wstring       wide(32768, L'\0');
    SetLastError(ERROR_SUCCESS);
    const int n = static_cast<int>(GetEnvironmentVariableW(wide_name.c_str(), &wide[0], static_cast<DWORD>(wide.size())));
    if (n == 0 && GetLastError() == ERROR_ENVVAR_NOT_FOUND) {
        return false;
    }
    value.assign(WideCharToMultiByte(CP_UTF8, 0, wide.c_str(), n, nullptr, 0, nullptr, nullptr), '\0');
    WideCharToMultiByte(CP_UTF8, 0, wide.c_str(), n, &value[0], static_cast<int>(value.size()), nullptr, nullptr);
    return true;
#else
    const char * found = std::getenv(name.c_str());
    value = found ? found : "";
    return found != nullptr;
#endif
}

std::string mmojo_read_inside(const std::string & path) {
    const mmojo_container & container = mmojo_own_container();
    const mmojo_entry *     entry     = container.find(path.substr(sizeof PREFIX - 1));
    if (!entry) {
        fail(path, "there is no such file inside " + (container.path.empty() ? "this program" : container.path));
    }
    return container.read(*entry);
}
