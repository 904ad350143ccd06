// Finds, judges and loads GPU backends that come as modules.
//
//   1. Places, nearest first: modules/SYSTEM/ beside the program's file, in mmojo-server-support/ beside it, inside
//      it. Each folder there is a module, libggml-NAME.so with libraries of its own; of one NAME the nearest counts.
//   2. The folder host/ holds the same program linked to glibc, for each CPU level. A static program cannot load
//      modules: it starts that one in its place, if it runs here at all.
//   3. The note in a module says which ggml it fits and which driver it needs (mmojo-module.c). It is read, and the
//      driver is asked, before a byte of the module is unpacked or run.
//   4. What is inside the file is unpacked once, into a folder named by the hash of its SHA256SUMS, and checked by it.
//   5. It is loaded, and what it has of devices is ggml's from then on.
#include "mmojo-modules.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "mmojo-container.h"

#if !defined(__linux__) || !defined(__x86_64__)

void mmojo_load_modules(void) {} // no modules are made for this system

#else

#    include "mmojo-abi.h"

#    include <dlfcn.h>
#    include <elf.h>
#    include <fcntl.h>
#    include <spawn.h>
#    include <sys/file.h>
#    include <sys/stat.h>
#    include <sys/statvfs.h>
#    include <sys/wait.h>
#    include <unistd.h>

#    include <algorithm>
#    include <cerrno>
#    include <csignal>
#    include <cstdlib>
#    include <cstring>
#    include <filesystem>
#    include <functional>
#    include <map>
#    include <memory>
#    include <stdexcept>
#    include <string>
#    include <vector>

extern "C" {
#    include "../../vendor/hash/sha256/sha256.h"

// What this program is called and which CPU level it is for; the build gives it to programs that may use a GPU.
extern const char mmojo_program[] __attribute__((weak));
extern const char mmojo_level[] __attribute__((weak));
extern char ** environ;
}

namespace fs = std::filesystem;

namespace {

constexpr char   SYSTEM[]  = "linux-x86_64";
constexpr char   SUPPORT[] = "mmojo-server-support";
constexpr char   HOST[]    = "host";
constexpr char   SUMS[]    = "SHA256SUMS";
constexpr char   PROBE[]   = "MMOJO_PROBE";
constexpr int    OTHER_VERSION = 3; // what a probed program ends with
constexpr char   NEEDS_GLIBC[] = "it needs a system with glibc 2.28 or later";
constexpr size_t LARGEST_NOTE = 64 * 1024;

struct closer {
    void operator()(FILE * file) const { fclose(file); }
};
using file_ptr = std::unique_ptr<FILE, closer>;

// One of the places: a folder of the file system, or inside the container if `inside`.
struct place {
    bool        inside;
    std::string folder;

    // The names of what lies in the folder `below` of it, sorted.
    std::vector<std::string> list(const std::string & below) const;
    std::string path(const std::string & name) const { return (inside ? "/zip/" : "") + folder + "/" + name; }
    file_ptr open(const std::string & name, uint64_t & start, uint64_t & size) const;
    std::string read(const std::string & name) const;
};

struct module {
    std::string name;   // ggml-cuda
    std::string folder; // below the place
    place       where;
};

bool begins(const std::string & text, const std::string & with) { return text.compare(0, with.size(), with) == 0; }

bool ends(const std::string & text, const std::string & with) {
    return text.size() >= with.size() && text.compare(text.size() - with.size(), with.size(), with) == 0;
}

std::vector<std::string> place::list(const std::string & below) const {
    std::vector<std::string> names;
    if (inside) {
        const std::string prefix = folder + "/" + (below.empty() ? "" : below + "/");
        for (const mmojo_entry & entry : mmojo_own_container().entries) {
            if (begins(entry.name, prefix)) {
                const std::string rest = entry.name.substr(prefix.size());
                names.push_back(rest.substr(0, rest.find('/')));
            }
        }
    } else {
        std::error_code error;
        for (fs::directory_iterator at(folder + "/" + below, error), end; !error && at != end; at.increment(error)) {
            names.push_back(at->path().filename().string());
        }
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
}

file_ptr place::open(const std::string & name, uint64_t & start, uint64_t & size) const {
    if (inside) {
        file_ptr file(mmojo_open_inside(path(name).c_str(), &start, &size));
        if (!file) {
            throw std::runtime_error(path(name) + ": " + std::strerror(errno));
        }
        return file;
    }
    file_ptr    file(fopen(path(name).c_str(), "rbe"));
    struct stat status{};
    if (!file || fstat(fileno(file.get()), &status) != 0) {
        throw std::runtime_error(path(name) + ": " + std::strerror(errno));
    }
    start = 0;
    size  = static_cast<uint64_t>(status.st_size);
    return file;
}

std::string place::read(const std::string & name) const {
    std::string text;
    if (inside) {
        return mmojo_read_inside(path(name));
    }
    if (!mmojo_read_outside(path(name), text)) {
        throw std::runtime_error(path(name) + ": there is no such file");
    }
    return text;
}

std::string variable(const char * name) {
    const char * value = getenv(name);
    return value ? value : "";
}

// Where modules lie if nothing else is asked for, nearest first. Code is run from there: a folder that somebody else has
// put beside the program is told of and left alone.
std::vector<place> usual_places() {
    const std::string  own = mmojo_own_container().folder;
    std::vector<place> all;
    for (const std::string & folder : { own, own + "/" + SUPPORT }) {
        std::string at = folder, why;
        for (const char * below : { "", "/modules", "/linux-x86_64" }) {
            at += below;
            why = why.empty() && at != own ? mmojo_distrusted(at) : why;
        }
        if (why.empty()) {
            all.push_back({ false, at });
        } else {
            GGML_LOG_WARN("modules: %s is not used: %s\n", at.c_str(), why.c_str());
        }
    }
    all.push_back({ true, std::string("modules/") + SYSTEM });
    return all;
}

// Where modules may be, nearest first.
std::vector<place> places() {
    const std::string asked = variable("MMOJO_MODULES");
    return asked.empty() ? usual_places() : std::vector<place>{ { false, asked } };
}

// Whether the folder `below` of a place is as little somebody else's as the place is, or the place was asked for.
bool is_trusted(const place & one, const std::string & below) {
    const std::string why = one.inside || one.folder == variable("MMOJO_MODULES") ? "" : mmojo_distrusted(one.folder + "/" + below);
    if (!why.empty()) {
        GGML_LOG_WARN("modules: %s/%s is not used: %s\n", one.folder.c_str(), below.c_str(), why.c_str());
    }
    return why.empty();
}

// The modules that count, by name.
std::map<std::string, module> find_modules(const std::vector<place> & all) {
    std::map<std::string, module> found;
    for (const place & one : all) {
        std::vector<std::string> folders = one.list("");
        folders.push_back(""); // a module that lies there without a folder of its own
        for (const std::string & folder : folders) {
            for (const std::string & file : folder == HOST ? std::vector<std::string>() : one.list(folder)) {
                if (begins(file, "libggml-") && ends(file, ".so") && is_trusted(one, folder)) {
                    const std::string name = file.substr(3, file.size() - 6);
                    found.emplace(name, module{ name, folder, one });
                }
            }
        }
    }
    return found;
}

// ---- unpacking

struct sum {
    std::string hash, name;
};

std::string hex(const unsigned char * bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    std::string       text;
    for (size_t i = 0; i < count; i++) {
        text += { digits[bytes[i] >> 4], digits[bytes[i] & 15] };
    }
    return text;
}

std::string hash_of(const std::string & text) {
    unsigned char digest[SHA256_DIGEST_SIZE];
    sha256_hash(digest, reinterpret_cast<const unsigned char *>(text.data()), text.size());
    return hex(digest, sizeof digest);
}

// The lines `HASH  NAME` of a SHA256SUMS, which name files beside it.
std::vector<sum> parse_sums(const std::string & text) {
    std::vector<sum> sums;
    for (size_t at = 0; at < text.size();) {
        const size_t      end  = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        at = end + 1;
        const bool good = line.size() > 66 && line.find_first_not_of("0123456789abcdef") == 64 && begins(line.substr(64), "  ") &&
                          line.find('/') == std::string::npos && line.substr(66) != "." && line.substr(66) != "..";
        if (!good) {
            throw std::runtime_error(std::string(SUMS) + " is damaged");
        }
        sums.push_back({ line.substr(0, 64), line.substr(66) });
    }
    return sums;
}

// Whether the folder is there, ours, and nobody else's to write to; made if need be.
bool is_private(const std::string & folder) {
    struct stat status{};
    if (lstat(folder.c_str(), &status) != 0) {
        std::error_code error;
        fs::create_directories(fs::path(folder).parent_path(), error);
        // Another process may be doing the same.
        if ((mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) || lstat(folder.c_str(), &status) != 0) {
            return false;
        }
    }
    return S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 022) == 0;
}

// Whether a file of the folder may be run, or mapped as code.
bool is_executable(const std::string & folder) {
    struct statvfs status{};
    return statvfs(folder.c_str(), &status) != 0 || !(status.f_flag & ST_NOEXEC);
}

// Whether the folder is another user's: root often has the HOME of whoever became root.
bool is_anothers(const std::string & folder) {
    struct stat status{};
    return stat(folder.c_str(), &status) == 0 && status.st_uid != geteuid();
}

// The user's folder for what is unpacked: where the launchers of an APE put slices, too.
std::string cache_folder() {
    const std::string cache = variable("XDG_CACHE_HOME"), home = variable("HOME"), temporary = variable("TMPDIR");
    const std::string mine  = "/ape-" + std::to_string(geteuid());
    const bool        homely = begins(home, "/") && !is_anothers(home);
    for (const std::string & folder : { begins(cache, "/") && !is_anothers(cache) ? cache + "/ape" : "", homely ? home + "/.cache/ape" : "",
                                        begins(temporary, "/") ? temporary + mine : "", "/tmp" + mine }) {
        if (!folder.empty() && is_private(folder) && access(folder.c_str(), W_OK) == 0 && is_executable(folder)) {
            return folder;
        }
    }
    throw std::runtime_error("nowhere to unpack: need a folder of yours, not mounted noexec, in XDG_CACHE_HOME, HOME or TMPDIR");
}

bool is_there(const std::string & path, uint64_t size) {
    struct stat status{};
    return lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
           static_cast<uint64_t>(status.st_size) == size;
}

// Keeps others from unpacking into the folder meanwhile: they wait, and find it done. Not every file system can.
struct folder_lock {
    const int fd;
    bool      held = false;

    explicit folder_lock(const std::string & folder) : fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        while (fd >= 0 && !(held = flock(fd, LOCK_EX) == 0) && errno == EINTR) {
        }
    }
    folder_lock(const folder_lock &) = delete;
    folder_lock & operator=(const folder_lock &) = delete;
    ~folder_lock() {
        if (fd >= 0) {
            close(fd);
        }
    }
};

// Opens what becomes the file `path`, and says what it is called until then. Whoever is `alone` always takes the same
// name, so that what a kill left behind is written over and does not stay for ever.
file_ptr create(const std::string & path, bool alone, std::string & temporary) {
    temporary    = path + (alone ? ".part" : ".XXXXXX");
    const int fd = alone ? ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0700) :
                           mkostemp(&temporary[0], O_CLOEXEC);
    return file_ptr(fd < 0 ? nullptr : fdopen(fd, "wb"));
}

// Copies while it hashes; what is not what the sums say never gets its name.
void unpack_file(const place & from, const std::string & name, const sum & wanted, const std::string & to, bool alone) {
    uint64_t       start = 0, size = 0;
    const file_ptr source = from.open(name, start, size);
    if (is_there(to, size)) {
        return;
    }
    std::string    temporary;
    const file_ptr target = create(to, alone, temporary);
    sha256_t       state;
    sha256_init(&state);
    bool           good = target && fseeko(source.get(), static_cast<off_t>(start), SEEK_SET) == 0, short_of = false;
    std::string    bytes(1 << 20, '\0');
    for (uint64_t left = size; good && left > 0;) {
        const size_t count = fread(&bytes[0], 1, std::min<uint64_t>(left, bytes.size()), source.get());
        short_of = count == 0 && !ferror(source.get());
        good = count > 0 && fwrite(bytes.data(), 1, count, target.get()) == count;
        sha256_update(&state, reinterpret_cast<const unsigned char *>(bytes.data()), count);
        left -= count;
    }
    unsigned char digest[SHA256_DIGEST_SIZE];
    sha256_final(&state, digest);
    // On the disk before it has its name: by that and its size it is known from then on.
    const bool        written = good && fflush(target.get()) == 0 && fchmod(fileno(target.get()), 0700) == 0 && fsync(fileno(target.get())) == 0;
    const std::string why = short_of                                                ? "it ends too early"
                            : !written                                              ? std::strerror(errno)
                            : hex(digest, sizeof digest) != wanted.hash             ? "it is damaged"
                            : rename(temporary.c_str(), to.c_str()) != 0            ? std::strerror(errno)
                                                                                    : "";
    if (!why.empty()) {
        unlink(temporary.c_str());
        throw std::runtime_error("cannot unpack " + from.path(name) + " to " + to + ": " + why);
    }
}

// The folder of the file system that has the files of `folder`, all of them or only the one called `only`.
std::string unpack(const place & from, const std::string & folder, const std::string & only = "") {
    if (!from.inside) {
        return from.folder + "/" + folder;
    }
    const std::string      text = from.read(folder + "/" + SUMS);
    const std::vector<sum> sums = parse_sums(text);
    const std::string      to   = cache_folder() + "/modules-" + hash_of(text);
    if (!is_private(to)) {
        throw std::runtime_error("cannot unpack to " + to + ": it is not a folder of yours alone");
    }
    const folder_lock lock(to);
    for (const sum & one : sums) {
        if (only.empty() || only == one.name) {
            unpack_file(from, folder + "/" + one.name, one, to + "/" + one.name, lock.held);
        }
    }
    return to;
}

#    if !defined(MMOJO_LOADS_MODULES)

// ---- handing over to the program for glibc

// Lets children be waited for: a parent that ignores how its children end passes that on to its own.
struct children_waited_for {
    struct sigaction before{};

    children_waited_for() {
        struct sigaction plain{};
        plain.sa_handler = SIG_DFL;
        sigaction(SIGCHLD, &plain, &before);
    }
    children_waited_for(const children_waited_for &) = delete;
    children_waited_for & operator=(const children_waited_for &) = delete;
    ~children_waited_for() { sigaction(SIGCHLD, &before, nullptr); }
};

// Why the program does not start here, so that its C library and CPU level are what this system has; "" if it does, and
// is of this version.
std::string why_not(const std::string & path) {
    std::string         probe = std::string(PROBE) + "=" + MMOJO_GGML_ABI;
    std::vector<char *> environment{ &probe[0] };
    for (char ** one = environ; *one; one++) {
        environment.push_back(*one);
    }
    environment.push_back(nullptr);
    char * const               argv[] = { const_cast<char *>(path.c_str()), nullptr };
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    for (const int fd : { 1, 2 }) {
        posix_spawn_file_actions_addopen(&quiet, fd, "/dev/null", O_WRONLY, 0);
    }
    const children_waited_for waited;
    pid_t                     pid    = 0;
    int                       status = -1;
    const int                 error  = posix_spawn(&pid, path.c_str(), &quiet, nullptr, argv, environment.data());
    posix_spawn_file_actions_destroy(&quiet);
    if (error == ENOENT && access(path.c_str(), F_OK) == 0) {
        return NEEDS_GLIBC; // it is there: its loader is not
    }
    if (error != 0) {
        return std::string("it cannot be started: ") + std::strerror(error);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        return "it ended with signal " + std::to_string(WTERMSIG(status));
    }
    return status == 0 ? "" : WEXITSTATUS(status) == OTHER_VERSION ? "it is of another version of ggml" : NEEDS_GLIBC;
}

std::vector<std::string> own_arguments() {
    std::vector<std::string> arguments;
    const file_ptr           file(fopen("/proc/self/cmdline", "rbe"));
    std::string              text;
    char                     buffer[4096];
    for (size_t count; file && (count = fread(buffer, 1, sizeof buffer, file.get())) > 0;) {
        text.append(buffer, count);
    }
    for (size_t at = 0; at < text.size(); at += arguments.back().size() + 1) {
        arguments.push_back(text.c_str() + at);
    }
    return arguments;
}

void become(const std::string & path) {
    std::vector<std::string> arguments = own_arguments();
    std::vector<char *>      argv;
    for (std::string & one : arguments) {
        argv.push_back(&one[0]);
    }
    argv.push_back(nullptr);
    std::error_code   error;
    const std::string self = fs::read_symlink("/proc/self/exe", error).string();
    if (arguments.empty() || error) {
        throw std::runtime_error("its arguments cannot be read from /proc");
    }
    // Whom it stands for, and that it is meant: children inherit this, and only one of the same file may heed it.
    setenv("MMOJO_HOST", fs::canonical(path).c_str(), 1);
    setenv("MMOJO_HOST_OF", self.c_str(), 1);
    unsetenv(PROBE);
    execv(path.c_str(), argv.data());
    throw std::runtime_error(path + ": " + std::strerror(errno));
}

// The program for glibc, of this one's CPU level if there is one, else of the best that starts. A folder that was asked
// for has modules, and need not have programs.
void hand_over(const std::vector<place> & asked) {
    const std::string  program = mmojo_program, best = program + "-" + mmojo_level;
    std::vector<place> all = asked;
    if (!variable("MMOJO_MODULES").empty()) {
        for (const place & one : usual_places()) {
            all.push_back(one);
        }
    }
    std::string first;
    for (const place & one : all) {
        std::vector<std::string> names = is_trusted(one, HOST) ? one.list(HOST) : std::vector<std::string>();
        std::reverse(names.begin(), names.end());
        std::stable_partition(names.begin(), names.end(), [&](const std::string & name) { return name == best; });
        for (const std::string & name : names) {
            if (begins(name, program + "-")) {
                const std::string path = unpack(one, HOST, name) + "/" + name, why = why_not(path);
                if (why.empty()) {
                    become(path);
                }
                first = first.empty() ? path + ": " + why : first;
            }
        }
    }
    throw std::runtime_error(!first.empty() ? first : "there is no " + program + " that can load modules; `forge package --module` packs it");
}

void use(const std::map<std::string, module> & found, const std::vector<place> & all) {
    if (!&mmojo_program[0] || found.empty()) {
        return;
    }
    try {
        hand_over(all);
    } catch (const std::exception & error) {
        GGML_LOG_WARN("modules: no GPU is used: %s\n", error.what());
    }
}

#    else

// ---- judging

std::string bytes_at(FILE * file, uint64_t offset, uint64_t size) {
    std::string bytes(size, '\0');
    if (fseeko(file, static_cast<off_t>(offset), SEEK_SET) != 0 || fread(&bytes[0], 1, size, file) != size) {
        throw std::runtime_error("it is damaged: it ends too early");
    }
    return bytes;
}

template <typename T> T record_at(FILE * file, uint64_t offset) {
    T value;
    memcpy(&value, bytes_at(file, offset, sizeof value).data(), sizeof value);
    return value;
}

// The text of the note "mmojo" among the notes of a segment; "" if it is not there. (ELF gABI, chapter 5, "Note Section")
std::string find_note(const std::string & notes) {
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= notes.size();) {
        Elf64_Nhdr head;
        memcpy(&head, notes.data() + at, sizeof head);
        const uint64_t owner = at + sizeof head, text = owner + (uint64_t(head.n_namesz) + 3) / 4 * 4;
        const uint64_t next = text + (uint64_t(head.n_descsz) + 3) / 4 * 4;
        if (next > notes.size()) {
            return "";
        }
        if (head.n_type == 1 && head.n_namesz == 6 && notes.compare(owner, 6, "mmojo", 6) == 0) {
            return notes.substr(text, head.n_descsz);
        }
        at = next;
    }
    return "";
}

// What the module says of itself: the lines KEY=VALUE of its note.
std::map<std::string, std::string> facts_of(FILE * file, uint64_t start) {
    const auto head = record_at<Elf64_Ehdr>(file, start);
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != EM_X86_64) {
        throw std::runtime_error("it is no library for this system");
    }
    std::string text;
    for (unsigned i = 0; i < head.e_phnum && text.empty(); i++) {
        const auto segment = record_at<Elf64_Phdr>(file, start + head.e_phoff + i * sizeof(Elf64_Phdr));
        if (segment.p_type == PT_NOTE && segment.p_filesz <= LARGEST_NOTE) {
            text = find_note(bytes_at(file, start + segment.p_offset, segment.p_filesz));
        }
    }
    std::map<std::string, std::string> facts;
    for (size_t at = 0; at < text.size();) {
        const size_t      end  = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        facts[line.substr(0, line.find('='))] = line.substr(std::min(line.find('='), line.size() - 1) + 1);
        at = end + 1;
    }
    return facts;
}

void check_version(const std::map<std::string, std::string> & facts) {
    const auto found = facts.find("ggml");
    if (found == facts.end()) {
        throw std::runtime_error("it does not say which ggml it was built for; take the module that was made with this program");
    }
    if (found->second != MMOJO_GGML_ABI) {
        throw std::runtime_error("it was built for another version of ggml (" + found->second + ", this program's is " +
                                 MMOJO_GGML_ABI + "); take the module that was made with this program");
    }
}

std::string cuda_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// The driver's library is there, loads, and is new enough.
void check_driver(const std::map<std::string, std::string> & facts) {
    const auto needs = facts.find("needs"), least = facts.find("driver");
    if (needs == facts.end() || needs->second.empty()) {
        return;
    }
    void * driver = dlopen(needs->second.c_str(), RTLD_NOW | RTLD_LOCAL); // stays: the module is about to want it
    if (!driver) {
        throw std::runtime_error(std::string("no driver here: ") + dlerror());
    }
    const auto ask     = reinterpret_cast<int (*)(int *)>(dlsym(driver, "cuDriverGetVersion"));
    const int  wanted  = least == facts.end() ? 0 : atoi(least->second.c_str());
    int        version = 0;
    if (wanted && (!ask || ask(&version) != 0 || version < wanted)) {
        throw std::runtime_error("the driver here is for CUDA " + cuda_text(version) + ", it needs one for CUDA " +
                                 cuda_text(wanted) + " or later: update the driver");
    }
}

// What a backend warns of while it starts: told with the reason why it is not used, in one line, or else as it came.
struct warnings {
    ggml_log_callback     before = nullptr;
    void *                data   = nullptr;
    ggml_abort_callback_t abort_before;
    std::vector<std::pair<ggml_log_level, std::string>> lines;

    warnings() {
        ggml_log_get(&before, &data);
        ggml_log_set(keep, this);
        current()    = this;
        abort_before = ggml_set_abort_callback(aborted);
    }
    warnings(const warnings &) = delete;
    warnings & operator=(const warnings &) = delete;
    ~warnings() {
        ggml_log_set(before, data);
        ggml_set_abort_callback(abort_before);
        current() = nullptr;
    }

    void tell() const {
        for (const auto & line : lines) {
            before(line.first, line.second.c_str(), data);
        }
    }

    // All of it, to be put behind a reason.
    std::string said() const {
        std::string text;
        for (const auto & line : lines) {
            text += (text.empty() ? ": " : "; ") + line.second.substr(0, line.second.find_last_not_of('\n') + 1);
        }
        return text;
    }

  private:
    static warnings *& current() {
        static warnings * one = nullptr;
        return one;
    }
    static void keep(ggml_log_level level, const char * text, void * self) {
        warnings & kept = *static_cast<warnings *>(self);
        if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
            kept.lines.emplace_back(level, text);
        } else {
            kept.before(level, text, kept.data);
        }
    }
    // A backend that ends the program is the last one that should do so without a word.
    static void aborted(const char * message) {
        for (const auto & line : current()->lines) {
            fputs(line.second.c_str(), stderr);
        }
        fprintf(stderr, "%s\n", message);
    }
};

void load(const module & one) {
    const std::string name = one.folder + "/lib" + one.name + ".so";
    uint64_t          start = 0, size = 0;
    {
        const file_ptr file  = one.where.open(name, start, size);
        const auto     facts = facts_of(file.get(), start);
        check_version(facts);
        check_driver(facts);
    }
    const std::string path = unpack(one.where, one.folder) + "/lib" + one.name + ".so";
    // Not by ggml_backend_load, which has lines of its own to say, and unloads what it cannot use.
    void * const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        throw std::runtime_error(dlerror());
    }
    const warnings           told;
    const auto               init    = reinterpret_cast<ggml_backend_init_t>(dlsym(library, "ggml_backend_init"));
    const ggml_backend_reg_t backend = init ? init() : nullptr;
    if (backend && backend->api_version != GGML_BACKEND_API_VERSION) {
        throw std::runtime_error("its interface is of version " + std::to_string(backend->api_version) + ", this program's of " +
                                 std::to_string(GGML_BACKEND_API_VERSION));
    }
    if (!backend || ggml_backend_reg_dev_count(backend) == 0) {
        throw std::runtime_error("there is a driver, but no device that it can use" + told.said());
    }
    told.tell();
    ggml_backend_register(backend);
    GGML_LOG_INFO("modules: %s is used, from %s\n", one.name.c_str(), path.c_str());
}

// ---- using

// Shows that it starts, and is of the version that asks; the check of the CPU comes before this.
__attribute__((constructor)) void answer_probe() {
    if (const char * asked = getenv(PROBE)) {
        fprintf(stderr, "%s is set, so all that is told is whether ggml here is %s\n", PROBE, asked);
        _exit(strcmp(asked, MMOJO_GGML_ABI) == 0 ? 0 : OTHER_VERSION);
    }
}

void use(const std::map<std::string, module> & found, const std::vector<place> &) {
    for (const auto & one : found) {
        try {
            load(one.second);
        } catch (const std::exception & error) {
            GGML_LOG_WARN("modules: %s is not used: %s\n", one.first.c_str(), error.what());
        }
    }
}

#    endif

} // namespace

void mmojo_load_modules(void) {
    static bool done = false;
    if (done || variable("MMOJO_MODULES") == "none") {
        return;
    }
    done = true;
    try {
        const std::vector<place> all = places();
        use(find_modules(all), all);
    } catch (const std::exception & error) {
        GGML_LOG_WARN("modules: none is used: %s\n", error.what());
    }
}

#endif
