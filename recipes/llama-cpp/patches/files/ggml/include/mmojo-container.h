// Files inside the running program's own file: `/zip/NAME` names the entry NAME of the zip at its end.
//
// The container is the executable itself if a zip ends it, else the file that the environment variable APE_FILE
// names: the launchers of an APE set it when they start the executable that they have unpacked.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

// Whether `path` names an entry of the container.
bool mmojo_is_inside(const char * path);

// Opens the container where the content of the entry `path` begins: that place is `*offset`, the content's length
// `*size` (either may be NULL). NULL, with errno set and the reason logged, if there is no such entry or it is deflated.
FILE * mmojo_open_inside(const char * path, uint64_t * offset, uint64_t * size);

#ifdef __cplusplus
}

#include <string>
#include <vector>

// One file of the container. `header` is where its local header lies; the content is behind that.
struct mmojo_entry {
    std::string name;
    uint64_t    header;
    uint64_t    packed;
    uint64_t    size;
    uint32_t    crc;
    bool        stored;
};

// The container and its directory, sorted by name.
struct mmojo_container {
    std::string              path;   // "" if this program's own file cannot be found
    std::string              folder; // the one that `path` lies in, without a slash at its end
    std::vector<mmojo_entry> entries;

    const mmojo_entry * find(const std::string & name) const;

    // The whole content of an entry, inflated if need be, checked by its CRC. Throws std::runtime_error.
    std::string read(const mmojo_entry & entry) const;
};

// The container of this process, read at the first call. Throws std::runtime_error if it is damaged.
const mmojo_container & mmojo_own_container();

// The whole content of the file `path`, outside; false if there is none. Throws std::runtime_error.
bool mmojo_read_outside(const std::string & path, std::string & content);

// Why what lies beside the program at `path`, a file or a folder, is not to be relied on: another user than root, this
// one and the owner of the program's file may have put it there, or anybody may change it. "" if there is nothing, or
// no reason: what anybody may do to the program itself is none.
std::string mmojo_distrusted(const std::string & path);

// The environment variable `name`, in UTF-8; false if it is not set.
bool mmojo_environment(const std::string & name, std::string & value);

// The whole content of the entry that `path`, /zip/NAME, names. Throws std::runtime_error.
std::string mmojo_read_inside(const std::string & path);
#endif
