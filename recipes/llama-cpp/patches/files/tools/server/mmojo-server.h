// What mmojo-server adds to llama-server: pages and certificates inside its own file, and the small things around them.
#pragma once

#include <cpp-httplib/httplib.h>

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

struct common_params;

// The files of web pages that are inside the program's file or in mmojo-server-support/: one page at /, each at
// /ui/NAME/. Anybody may load them, at any time: while the model loads, and without an API key.
class mmojo_pages {
  public:
    // Throws std::runtime_error if the page that was asked for (--ui-page, --path /zip/…) is not there.
    explicit mmojo_pages(const common_params & params);

    bool empty() const { return files.empty(); }
    bool has(const std::string & path) const { return files.count(path) != 0; }

    // Answers a request for one of the files; false if it is for something else.
    bool serve(const httplib::Request & request, httplib::Response & response) const;

    // A page at /ui/NAME/ asks there for the server, too: the path that is meant.
    std::string path_of(const std::string & path) const;

  private:
    struct file {
        std::string                  type, etag;
        const char *                 cache;
        bool                         isolated; // llama.cpp's own page asks for this
        std::function<std::string()> read;
    };

    std::string                           prefix;
    std::vector<std::string>              places; // of the pages but the one at /
    std::unordered_map<std::string, file> files; // by the path of a request

    void add_folder(const std::string & folder, const std::string & at, bool isolated);
    bool add_inside(const std::string & folder, const std::string & at, bool isolated);
    bool add_outside(const std::string & folder, const std::string & at, bool isolated);
    void add(const std::string & at, const std::string & name, bool isolated, const std::string & etag,
             std::function<std::string()> read);
};

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
// A server with this certificate (PEM, the chain behind it) and key, which may be inside the program's file.
// Throws std::runtime_error.
std::unique_ptr<httplib::Server> mmojo_tls_server(const std::string & certificate, const std::string & key);

// Tells OpenSSL where this system keeps the certificates that it trusts, if that is not where OpenSSL looks.
void mmojo_find_roots();
#endif

// Applies --ctx-size-max to the context size: the model's own, if none was asked for.
void mmojo_cap_context(common_params & params);

// Opens the server's page in the user's browser, if there is one; tells nobody if not.
void mmojo_open_browser(const std::string & address);
