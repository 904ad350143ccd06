#include "mmojo-server.h"

#include "common.h"
#include "gguf.h"
#include "log.h"
#include "mmojo-container.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <stdexcept>

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
#    include <openssl/err.h>
#    include <openssl/pem.h>
#    include <openssl/x509.h>
#endif
#if defined(_WIN32)
#    include <shellapi.h>
#else
#    include <spawn.h>
extern char ** environ;
#endif

namespace {

constexpr char NEVER_CHANGES[] = "public, max-age=31536000, immutable";
constexpr char ASK_AGAIN[]     = "no-cache";

std::string support_folder() { return mmojo_own_container().folder + "/mmojo-server-support"; }

bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string type_of(const std::string & name) {
    static const std::unordered_map<std::string, std::string> types = {
        { "html", "text/html; charset=utf-8" },     { "css", "text/css; charset=utf-8" },
        { "js", "text/javascript; charset=utf-8" }, { "mjs", "text/javascript; charset=utf-8" },
        { "json", "application/json" },             { "map", "application/json" },
        { "webmanifest", "application/manifest+json" }, { "wasm", "application/wasm" },
        { "svg", "image/svg+xml" },                 { "png", "image/png" },
        { "jpg", "image/jpeg" },                    { "jpeg", "image/jpeg" },
        { "gif", "image/gif" },                     { "webp", "image/webp" },
        { "avif", "image/avif" },                   { "ico", "image/x-icon" },
        { "woff2", "font/woff2" },                  { "woff", "font/woff" },
        { "ttf", "font/ttf" },                      { "txt", "text/plain; charset=utf-8" },
        { "md", "text/plain; charset=utf-8" },      { "xml", "application/xml" },
        { "pdf", "application/pdf" },               { "mp3", "audio/mpeg" },
        { "mp4", "video/mp4" },                     { "webm", "video/webm" },
    };
    const auto found = types.find(name.substr(name.rfind('.') + 1));
    return found == types.end() ? "application/octet-stream" : found->second;
}

// Names of the pages, as NAME in ui/NAME/index.html.
std::set<std::string> page_names() {
    std::set<std::string> names;
    for (const mmojo_entry & entry : mmojo_own_container().entries) {
        if (entry.name.compare(0, 3, "ui/") == 0 && ends_with(entry.name, "/index.html")) {
            const std::string name = entry.name.substr(3, entry.name.size() - 3 - 11);
            if (!name.empty() && name.find('/') == std::string::npos) {
                names.insert(name);
            }
        }
    }
    std::error_code error;
    const auto      pages = std::filesystem::u8path(support_folder() + "/ui");
    for (std::filesystem::directory_iterator at(pages, error), end; !error && at != end; at.increment(error)) {
        std::error_code none;
        if (std::filesystem::is_regular_file(at->path() / "index.html", none)) {
            names.insert(at->path().filename().u8string());
        }
    }
    return names;
}

std::string joined(const std::set<std::string> & names) {
    std::string out;
    for (const std::string & name : names) {
        out += (out.empty() ? "" : ", ") + name;
    }
    return out.empty() ? "it has none" : "it has: " + out;
}

} // namespace

mmojo_pages::mmojo_pages(const common_params & params) : prefix(params.api_prefix) {
    if (!params.ui) {
        return;
    }
    if (!params.public_path.empty()) {
        if (mmojo_is_inside(params.public_path.c_str())) {
            add_folder(params.public_path.substr(5), "/", false);
        }
        return; // a folder outside is served as llama-server does
    }
    const std::set<std::string> names = page_names();
    if (!params.ui_page.empty() && !names.count(params.ui_page)) {
        throw std::runtime_error("--ui-page " + params.ui_page + ": this program has no such page; " + joined(names));
    }
    for (const std::string & name : names) {
        add_folder("ui/" + name, "/ui/" + name + "/", name == "chat");
        places.push_back(prefix + "/ui/" + name + "/");
    }
    const std::string first = names.count("chat") || names.empty() ? "chat" : *names.begin();
    const std::string root  = params.ui_page.empty() ? first : params.ui_page;
    if (names.count(root)) {
        add_folder("ui/" + root, "/", root == "chat");
    }
}

void mmojo_pages::add_folder(const std::string & folder, const std::string & at, bool isolated) {
    std::string name = folder;
    while (!name.empty() && name.back() == '/') {
        name.pop_back();
    }
    if (!add_inside(name + "/", at, isolated) && !add_outside(support_folder() + "/" + name, at, isolated)) {
        throw std::runtime_error("--path /zip/" + name + ": there is no such folder inside " + mmojo_own_container().path);
    }
}

bool mmojo_pages::add_inside(const std::string & folder, const std::string & at, bool isolated) {
    const mmojo_container & own   = mmojo_own_container();
    bool                    found = false;
    for (const mmojo_entry & entry : own.entries) {
        if (entry.name.compare(0, folder.size(), folder) == 0 && entry.name.size() > folder.size() && entry.name.back() != '/') {
            char etag[40];
            snprintf(etag, sizeof etag, "\"%08x-%llx\"", entry.crc, static_cast<unsigned long long>(entry.size));
            add(at, entry.name.substr(folder.size()), isolated, etag, [&own, &entry] { return own.read(entry); });
            found = true;
        }
    }
    return found;
}

bool mmojo_pages::add_outside(const std::string & folder, const std::string & at, bool isolated) {
    const auto      root = std::filesystem::u8path(folder);
    std::error_code error;
    bool            found = false;
    for (std::filesystem::recursive_directory_iterator one(root, error), end; !error && one != end; one.increment(error)) {
        std::error_code none;
        if (!one->is_regular_file(none)) {
            continue;
        }
        const std::string path = one->path().u8string(), name = one->path().lexically_relative(root).generic_u8string();
        char              etag[60];
        snprintf(etag, sizeof etag, "\"%llx-%llx\"", static_cast<unsigned long long>(one->last_write_time(none).time_since_epoch().count()),
                 static_cast<unsigned long long>(one->file_size(none)));
        add(at, name, isolated, etag, [path] {
            std::string content;
            if (!mmojo_read_outside(path, content)) {
                throw std::runtime_error(path + ": it was there when the server started");
            }
            return content;
        });
        found = true;
    }
    return found;
}

void mmojo_pages::add(const std::string & at, const std::string & name, bool isolated, const std::string & etag,
                      std::function<std::string()> read) {
    const bool        index = name == "index.html" || ends_with(name, "/index.html");
    const bool        fixed = name.find("_app/immutable/") != std::string::npos; // their names are hashes of them
    const file        one{ type_of(name), etag, fixed ? NEVER_CHANGES : ASK_AGAIN, isolated && index, std::move(read) };
    const std::string path = prefix + at + name;
    files[path] = one;
    if (index) {
        files[path.substr(0, path.size() - 10)] = one; // index.html
    }
}

std::string mmojo_pages::path_of(const std::string & path) const {
    for (const std::string & place : places) {
        if (path.compare(0, place.size(), place) == 0) {
            return prefix + "/" + path.substr(place.size());
        }
    }
    return path;
}

bool mmojo_pages::serve(const httplib::Request & request, httplib::Response & response) const {
    const auto found = request.method == "GET" || request.method == "HEAD" ? files.find(request.path) : files.end();
    if (found == files.end()) {
        return false;
    }
    const file & one = found->second;
    response.set_header("ETag", one.etag);
    response.set_header("Cache-Control", one.cache);
    if (one.isolated) {
        response.set_header("Cross-Origin-Embedder-Policy", "require-corp");
        response.set_header("Cross-Origin-Opener-Policy", "same-origin");
    }
    if (request.get_header_value("If-None-Match").find(one.etag) != std::string::npos) {
        response.status = 304;
        return true;
    }
    try {
        response.set_content(one.read(), one.type);
        response.status = 200;
    } catch (const std::exception & error) {
        LOG_ERR("%s: %s\n", request.path.c_str(), error.what());
        response.status = 500;
        response.set_content(error.what(), "text/plain; charset=utf-8");
    }
    return true;
}

#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
static std::string read_pem(const char * option, const std::string & path) {
    std::string content;
    if (path.empty()) {
        throw std::runtime_error(std::string(option) + " is missing: https needs both, --ssl-cert-file and --ssl-key-file");
    }
    if (mmojo_is_inside(path.c_str())) {
        content = mmojo_read_inside(path);
    } else if (!mmojo_read_outside(path, content)) {
        throw std::runtime_error(std::string(option) + " " + path + ": there is no such file");
    }
    if (content.find("-----BEGIN ") == std::string::npos) {
        throw std::runtime_error(std::string(option) + " " + path + ": not in PEM form (-----BEGIN …)");
    }
    return content;
}

template <typename T, void (*release)(T *)> struct releaser {
    void operator()(T * value) const { release(value); }
};
static void free_bio(BIO * bio) { BIO_free(bio); }
using bio_ptr         = std::unique_ptr<BIO, releaser<BIO, free_bio>>;
using certificate_ptr = std::unique_ptr<X509, releaser<X509, X509_free>>;
using key_ptr         = std::unique_ptr<EVP_PKEY, releaser<EVP_PKEY, EVP_PKEY_free>>;

static bio_ptr reader_of(const std::string & pem) { return bio_ptr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); }

static int no_password(char *, int, int, void *) { return 0; } // nobody is there to be asked for one

// Gives the certificate, the chain behind it and the key to OpenSSL; returns what is wrong with them, "" if nothing is.
static std::string use_certificate(SSL_CTX * context, const std::string & pem_certificate, const std::string & pem_key) {
    ERR_clear_error();
    const bio_ptr         chain = reader_of(pem_certificate), other = reader_of(pem_key);
    const certificate_ptr certificate(PEM_read_bio_X509(chain.get(), nullptr, no_password, nullptr));
    const key_ptr         key(PEM_read_bio_PrivateKey(other.get(), nullptr, no_password, nullptr));
    if (!certificate || !key || X509_check_private_key(certificate.get(), key.get()) != 1 ||
        SSL_CTX_use_certificate(context, certificate.get()) != 1 || SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
        const char * reason = ERR_reason_error_string(ERR_peek_last_error());
        if (certificate && !key && pem_key.find("ENCRYPTED") != std::string::npos) {
            return "the key is protected by a password; take a copy without one (openssl pkey -in KEY -out COPY)";
        }
        const char * which  = !certificate ? "the certificate cannot be read" : !key ? "the key cannot be read" : "they do not go together";
        return std::string(which) + (reason ? std::string(" (") + reason + ")" : "");
    }
    while (X509 * next = PEM_read_bio_X509(chain.get(), nullptr, no_password, nullptr)) {
        SSL_CTX_add0_chain_cert(context, next);
    }
    ERR_clear_error(); // the end of the chain is one
    return "";
}

std::unique_ptr<httplib::Server> mmojo_tls_server(const std::string & certificate, const std::string & key) {
    const std::string pem_certificate = read_pem("--ssl-cert-file", certificate), pem_key = read_pem("--ssl-key-file", key);
    std::string       fault = "OpenSSL cannot be used";
    auto server = std::make_unique<httplib::SSLServer>([&](httplib::tls::ctx_t context) {
        fault = use_certificate(static_cast<SSL_CTX *>(context), pem_certificate, pem_key);
        return fault.empty();
    });
    if (!fault.empty()) {
        throw std::runtime_error("certificate " + certificate + " and key " + key + ": " + fault);
    }
    return server;
}

void mmojo_find_roots() {
#if !defined(_WIN32)
    // Debian; Fedora and RHEL; openSUSE; old OpenELEC; Alpine, macOS and the BSDs.
    static const char * const bundles[] = {
        "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",            "/etc/ssl/cert.pem",
    };
    std::string     value;
    std::error_code error;
    if (mmojo_environment("SSL_CERT_FILE", value) || mmojo_environment("SSL_CERT_DIR", value)) {
        return;
    }
    for (const char * bundle : bundles) {
        if (std::filesystem::exists(bundle, error)) {
            setenv("SSL_CERT_FILE", bundle, 0);
            return;
        }
    }
#endif
}
#endif

void mmojo_cap_context(common_params & params) {
    if (params.n_ctx_max <= 0) {
        return;
    }
    if (params.n_ctx == 0 && !params.model.path.empty()) {
        const gguf_init_params no_tensors = { true, nullptr };
        gguf_context *         model      = gguf_init_from_file(params.model.path.c_str(), no_tensors);
        if (!model) {
            return; // loading it will say why
        }
        const int64_t     architecture = gguf_find_key(model, "general.architecture");
        const std::string key   = architecture < 0 ? "" : std::string(gguf_get_val_str(model, architecture)) + ".context_length";
        const int64_t     found = gguf_find_key(model, key.c_str());
        if (found >= 0 && gguf_get_kv_type(model, found) == GGUF_TYPE_UINT32) {
            params.n_ctx = static_cast<int32_t>(gguf_get_val_u32(model, found));
        }
        gguf_free(model);
    }
    params.n_ctx = params.n_ctx > 0 ? std::min(params.n_ctx, params.n_ctx_max) : params.n_ctx_max;
}

void mmojo_open_browser(const std::string & address) {
    std::string url = address;
    for (const std::string & any : { std::string("://0.0.0.0:"), std::string("://[::]:") }) {
        const size_t at = url.find(any);
        if (at != std::string::npos) {
            url.replace(at, any.size(), "://127.0.0.1:");
        }
    }
#if defined(_WIN32)
    ShellExecuteA(nullptr, "open", url.c_str(), nullptr, nullptr, SW_SHOWNORMAL);
#else
#    if defined(__APPLE__)
    std::string opener = "open";
#    else
    std::string opener = "xdg-open";
#    endif
    char * const arguments[] = { &opener[0], &url[0], nullptr };
    pid_t        child       = 0;
    posix_spawnp(&child, opener.c_str(), nullptr, nullptr, arguments, environ);
#endif
}
