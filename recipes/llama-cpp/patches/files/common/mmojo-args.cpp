#include "mmojo-args.h"

#include "mmojo-container.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <stdexcept>

namespace {

constexpr char   NAME[]    = "mmojo-server-args";
constexpr char   SUPPORT[] = "mmojo-server-support";
constexpr size_t LARGEST   = 1024 * 1024;

using arguments = std::vector<mmojo_argument>;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_name(char c) { return is_digit(c) || is_letter(c) || c == '_'; }
bool is_blank(char c) { return c == ' ' || c == '\t'; }
bool is_separator(char c) { return is_blank(c) || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

int hex_value(char c) {
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

struct source {
    const std::string & place;

    [[noreturn]] void fail(int line, const char * why, const std::string & what) const {
        throw std::runtime_error(std::string("error[args-") + why + "]: " + place + ":" + std::to_string(line) + ": " + what);
    }
};

// The length of the UTF-8 character at `at`, 0 if there is none (RFC 3629: no overlong forms, no surrogates).
size_t utf8_length(const std::string & s, size_t at) {
    const auto byte = [&](size_t i) { return at + i < s.size() ? static_cast<unsigned char>(s[at + i]) : 0u; };
    const auto tail = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
    const unsigned a = byte(0), b = byte(1);
    if (a < 0x80) {
        return 1;
    }
    if (a >= 0xc2 && a <= 0xdf) {
        return tail(1) ? 2 : 0;
    }
    if (a >= 0xe0 && a <= 0xef) {
        return tail(1) && tail(2) && !(a == 0xe0 && b < 0xa0) && !(a == 0xed && b > 0x9f) ? 3 : 0;
    }
    if (a >= 0xf0 && a <= 0xf4) {
        return tail(1) && tail(2) && tail(3) && !(a == 0xf0 && b < 0x90) && !(a == 0xf4 && b > 0x8f) ? 4 : 0;
    }
    return 0;
}

// Looks at the encoding of the whole text before anything else is; returns it without a byte order mark.
std::string checked(const std::string & text, const source & from) {
    int line = 1;
    if (text.size() > LARGEST) {
        from.fail(line, "size", "more than 1 MiB");
    }
    for (size_t at = 0; at < text.size();) {
        const size_t length = utf8_length(text, at);
        if (text[at] == '\0') {
            from.fail(line, "nul", "a NUL byte; is this a text file?");
        }
        if (length == 0) {
            from.fail(line, "encoding", "not UTF-8; save the file in that encoding");
        }
        line += text[at] == '\n';
        at += length;
    }
    return text.compare(0, 3, "\xef\xbb\xbf") == 0 ? text.substr(3) : text;
}

std::string encode_utf8(uint32_t c) {
    std::string out;
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += { static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63)) };
    } else if (c < 0x10000) {
        out += { static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63)) };
    } else {
        out += { static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
                 static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63)) };
    }
    return out;
}

// The character that a named escape stands for, 0 if `c` names none.
char named_escape(char c) {
    static const char names[] = "abefnrtv", values[] = "\a\b\x1b\f\n\r\t\v";
    const char * at = c ? std::strchr(names, c) : nullptr;
    return at ? values[at - names] : '\0';
}

// The plain form: tokens as a shell has them, without the shell.
class plain_reader {
  public:
    plain_reader(std::string text, const std::string & place) : s(std::move(text)), from{ place } {}

    arguments read() {
        arguments out;
        bool      marked = false;
        while (skip_to_token()) {
            mmojo_argument token = read_token();
            if (token.mark && marked) {
                from.fail(token.line, "marker", "a second `...`; there is one command line only");
            }
            marked = marked || token.mark;
            out.push_back(std::move(token));
        }
        return out;
    }

  private:
    const std::string s;
    const source      from;
    size_t            at   = 0;
    int               line = 1;

    bool more() const { return at < s.size(); }
    char peek(size_t ahead = 0) const { return at + ahead < s.size() ? s[at + ahead] : '\0'; }

    char take() {
        line += s[at] == '\n';
        return s[at++];
    }

    // Takes a backslash and the line end behind it, if there is one.
    bool take_joined_line() {
        const size_t length = peek(1) == '\n' ? 2 : peek(1) == '\r' && peek(2) == '\n' ? 3 : 0;
        for (size_t i = 0; i < length; i++) {
            take();
        }
        return length != 0;
    }

    bool skip_to_token() {
        while (more()) {
            if (peek() == '#') {
                while (more() && peek() != '\n') {
                    take();
                }
            } else if (is_separator(peek())) {
                take();
            } else if (peek() != '\\' || !take_joined_line()) {
                return true;
            }
        }
        return false;
    }

    mmojo_argument read_token() {
        mmojo_argument token;
        bool           bare = true;
        token.line  = line;
        token.place = from.place;
        while (more() && !is_separator(peek())) {
            const char c = peek();
            if (c == '\'') {
                read_single(token.text);
            } else if (c == '"') {
                read_double(token.text);
            } else if (c == '\\') {
                read_backslash(token.text);
            } else if (c == '$') {
                read_variable(token.text);
            } else {
                token.text += take();
                continue;
            }
            bare = false;
        }
        token.mark = bare && token.text == "...";
        return token;
    }

    void read_backslash(std::string & out) {
        if (take_joined_line()) {
            return;
        }
        if (at + 1 >= s.size()) {
            from.fail(line, "escape", "a backslash at the end of the file");
        }
        if (is_digit(peek(1)) || is_letter(peek(1))) {
            from.fail(line, "escape", std::string("`\\") + peek(1) +
                                      "` outside of quotes; write paths of Windows with `/` or in single quotes");
        }
        take();
        out += take();
    }

    void read_single(std::string & out) {
        const int begin = line;
        take();
        while (more() && peek() != '\'') {
            out += take();
        }
        close(begin);
    }

    void read_double(std::string & out) {
        const int begin = line;
        take();
        while (more() && peek() != '"') {
            if (peek() == '\\' && at + 1 < s.size()) {
                read_escape(out);
            } else if (peek() == '$') {
                read_variable(out);
            } else {
                out += take();
            }
        }
        close(begin);
    }

    void close(int begin) {
        if (!more()) {
            from.fail(begin, "quote", "the quote that begins here is never closed");
        }
        take();
    }

    void read_escape(std::string & out) {
        if (take_joined_line()) {
            return;
        }
        take();
        const char c = peek();
        if (c == 'x' || (c >= '0' && c <= '7')) {
            out += read_byte();
        } else if (c == '\\' || c == '"' || c == '\'' || c == '?' || c == '$') {
            out += take();
        } else if (named_escape(c)) {
            out += named_escape(take());
        } else {
            from.fail(line, "escape", std::string("no such escape: `\\") + c + "`");
        }
    }

    char read_byte() {
        const bool hex    = peek() == 'x';
        const int  base   = hex ? 16 : 8;
        int        value  = 0;
        int        digits = 0;
        if (hex) {
            take();
        }
        while (digits < (hex ? 2 : 3) && hex_value(peek()) >= 0 && hex_value(peek()) < base) {
            value = value * base + hex_value(take());
            digits++;
        }
        if (digits == 0 || value > 255) {
            from.fail(line, "escape", hex ? "`\\x` needs hexadecimal digits" : "an octal escape goes up to \\377");
        }
        if (value == 0) {
            from.fail(line, "nul", "an argument cannot hold the byte 0");
        }
        return static_cast<char>(value);
    }

    void read_variable(std::string & out) {
        if (peek(1) == '{') {
            return read_braces(out);
        }
        if (!is_name(peek(1)) || is_digit(peek(1))) {
            out += take();
            return;
        }
        take();
        std::string name;
        while (more() && is_name(peek())) {
            name += take();
        }
        out += value_of(name);
    }

    void read_braces(std::string & out) {
        const size_t end = s.find_first_of("}\n", at);
        if (end == std::string::npos || s[end] == '\n') {
            from.fail(line, "variable", "the `${` here is not closed on its line");
        }
        const std::string inside = s.substr(at + 2, end - at - 2);
        size_t            length = 0;
        while (length < inside.size() && is_name(inside[length])) {
            length++;
        }
        const std::string name = inside.substr(0, length), rest = inside.substr(length);
        if (name.empty() || is_digit(name[0]) || (!rest.empty() && rest.compare(0, 2, ":-") != 0)) {
            from.fail(line, "variable", "`${" + inside + "}`: there are `${NAME}` and `${NAME:-text}`");
        }
        std::string value;
        if (rest.empty()) {
            value = value_of(name);
        } else if (!mmojo_environment(name, value) || value.empty()) {
            value = rest.substr(2);
        }
        out += value;
        at = end + 1;
    }

    std::string value_of(const std::string & name) const {
        std::string value;
        if (!mmojo_environment(name, value)) {
            from.fail(line, "variable", "$" + name + " is not set; set it, or write ${" + name + ":-some default}");
        }
        return value;
    }
};

// The YAML form: the flat part of YAML 1.2 that options need, and no more.
class yaml_reader {
  public:
    yaml_reader(std::string text, const std::string & place) : s(std::move(text)), from{ place } {}

    arguments read() {
        for (size_t at = 0; at < s.size(); number++) {
            const size_t end  = std::min(s.find('\n', at), s.size());
            std::string  line = s.substr(at, end - at);
            if (!line.empty() && line.back() == '\r') {
                line.pop_back();
            }
            read_line(line);
            at = end + 1;
        }
        end_list();
        return std::move(out);
    }

  private:
    const std::string     s;
    const source          from;
    int                   number = 1;
    arguments             out;
    std::set<std::string> keys;
    bool                  started   = false;  // a key or `---` was there
    std::string           open_key;           // one without a value: a list may follow
    int                   open_line = 0;
    bool                  has_items = false;
    size_t                depth     = 0;

    [[noreturn]] void fail(const char * why, const std::string & what) const { from.fail(number, why, what); }

    void add(const std::string & text, int line) { out.push_back({ text, false, line, from.place }); }

    // A key that nothing followed is a bare option.
    void end_list() {
        if (!open_key.empty() && !has_items) {
            add(open_key, open_line);
        }
        open_key.clear();
    }

    void read_line(const std::string & line) {
        const size_t indent = std::min(line.find_first_not_of(' '), line.size());
        if (indent == line.size() || line[indent] == '#') {
            return check_signs(line, line.size(), line.size());
        }
        if (line[indent] == '\t') {
            fail("tab", "a tab; indent with blanks");
        }
        if (indent == 0 && line.compare(0, 3, "---") == 0 && is_end(line, 3)) {
            return begin_document(line);
        }
        if (indent == 0 && line.compare(0, 3, "...") == 0 && is_end(line, 3)) {
            fail("document", "`...` ends a document here; it has a meaning in the plain form only");
        }
        if (line[indent] == '-' && (indent + 1 == line.size() || is_blank(line[indent + 1]))) {
            return read_item(line, indent);
        }
        if (indent != 0) {
            fail("indent", "a key begins at the start of its line, and a value stands on the line of its key");
        }
        read_key(line);
    }

    // Whether nothing but blanks and a comment follows.
    static bool is_end(const std::string & line, size_t at) {
        const size_t next = line.find_first_not_of(' ', at);
        return next == std::string::npos || (next > at && line[next] == '#');
    }

    void begin_document(const std::string & line) {
        check_signs(line, 0, line.size());
        if (started) {
            fail("document", "a second document");
        }
        started = true;
    }

    // Tabs and control characters are refused between `begin` and `end`, control characters everywhere.
    void check_signs(const std::string & line, size_t begin, size_t end) const {
        for (size_t i = 0; i < line.size(); i++) {
            const unsigned char c = line[i];
            if (c == '\t' && i >= begin && i < end) {
                fail("tab", "a tab; use blanks");
            }
            if ((c < 0x20 && c != '\t') || c == 0x7f) {
                fail("control", "a control character; write it as an escape in double quotes");
            }
        }
    }

    void read_key(const std::string & line) {
        size_t end = 0;
        while (end < line.size() && (is_name(line[end]) || line[end] == '-')) {
            end++;
        }
        if (end < line.size() && line[end] == ':' && end + 1 < line.size() && line[end + 1] == '\t') {
            fail("tab", "a tab; use blanks");
        }
        if (end == 0 || end >= line.size() || line[end] != ':' || (end + 1 < line.size() && line[end + 1] != ' ')) {
            check_signs(line, 0, line.size());
            fail("key", "not `KEY: VALUE`; keys are options without their dashes");
        }
        end_list();
        started = true;
        std::string option = line.substr(0, end);
        if (option[0] != '-') {
            option = (end == 1 ? "-" : "--") + option;
        }
        if (!keys.insert(option).second) {
            fail("duplicate", option + " stands here for the second time; for several values write a list");
        }
        std::string value;
        if (read_value(line, end + 1, value)) {
            add(option, number);
            add(value, number);
        } else {
            open_key  = option;
            open_line = number;
            has_items = false;
            if (!bare) {
                end_list(); // null is said, so no list can follow
            }
        }
    }

    void read_item(const std::string & line, size_t indent) {
        if (open_key.empty()) {
            fail(keys.empty() ? "key" : "indent", "a list item without a key above it that waits for one");
        }
        if (has_items && indent != depth) {
            fail("indent", "the items of a list stand equally far from the left");
        }
        has_items = true;
        depth     = indent;
        std::string value;
        const bool  given = read_value(line, indent + 1, value);
        add(open_key, number);
        if (given) {
            add(value, number);
        }
    }

    bool bare = false; // the last value was not there at all

    // The value that begins behind `at`; false if there is none, or null.
    bool read_value(const std::string & line, size_t at, std::string & value) {
        bare = false;
        const size_t begin = line.find_first_not_of(' ', at);
        if (begin == std::string::npos || line[begin] == '#') {
            check_signs(line, 0, std::min(begin, line.size()));
            bare = true;
            return false;
        }
        if (line[begin] == '\'' || line[begin] == '"') {
            check_signs(line, 0, begin);
            read_quoted(line, begin, value);
            return true;
        }
        const size_t comment = line.find(" #", begin);
        value = line.substr(begin, comment == std::string::npos ? comment : comment - begin);
        check_signs(line, 0, begin + value.size());
        value.erase(value.find_last_not_of(' ') + 1);
        check_unquoted(value);
        return value != "null" && value != "Null" && value != "NULL" && value != "~";
    }

    void check_unquoted(const std::string & value) const {
        const char c = value[0];
        const bool starts_wrong = std::strchr(",[]{}#&*!|>'\"%@`", c) ||
                                  (std::strchr("-?:", c) && (value.size() == 1 || value[1] == ' '));
        if (starts_wrong || value.find(": ") != std::string::npos || value.back() == ':') {
            fail("value", "`" + value + "` is more than a plain value; put it in single quotes if it is meant as it stands");
        }
    }

    void read_quoted(const std::string & line, size_t at, std::string & value) const {
        const char quote = line[at++];
        while (true) {
            if (at >= line.size()) {
                fail("quote", "the quote is not closed on its line");
            }
            const char c = line[at++];
            if (c == quote && quote == '\'' && at < line.size() && line[at] == quote) {
                value += line[at++];
            } else if (c == quote) {
                break;
            } else if (c == '\\' && quote == '"') {
                read_escape(line, at, value);
            } else if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) {
                fail("control", "a control character; write it as an escape in double quotes");
            } else {
                value += c;
            }
        }
        const size_t next = line.find_first_not_of(' ', at);
        if (next != std::string::npos && line[next] == '\t') {
            fail("tab", "a tab; use blanks");
        }
        if (!is_end(line, at)) {
            fail("value", "more behind the closing quote");
        }
        check_signs(line, line.size(), line.size());
    }

    void read_escape(const std::string & line, size_t & at, std::string & value) const {
        const char c = at < line.size() ? line[at++] : '\0';
        if (c == '\0') {
            fail("quote", "the quote is not closed on its line");
        }
        const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (digits) {
            value += read_character(line, at, digits);
        } else if (c == '\\' || c == '"' || c == '/') {
            value += c;
        } else if (named_escape(c)) {
            value += named_escape(c);
        } else {
            fail("escape", std::string("no such escape: `\\") + c + "`");
        }
    }

    std::string read_character(const std::string & line, size_t & at, int digits) const {
        uint32_t c = 0;
        for (int i = 0; i < digits; i++) {
            const int digit = at < line.size() ? hex_value(line[at]) : -1;
            if (digit < 0) {
                fail("escape", "it needs " + std::to_string(digits) + " hexadecimal digits");
            }
            c = c << 4 | static_cast<uint32_t>(digit);
            at++;
        }
        if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
            fail("escape", "no such character");
        }
        if (c == 0) {
            fail("nul", "an argument cannot hold the byte 0");
        }
        return encode_utf8(c);
    }
};

bool read_place(const std::string & path, std::string & content) {
    if (!mmojo_is_inside(path.c_str())) {
        return mmojo_read_outside(path, content);
    }
    if (!mmojo_own_container().find(path.substr(5))) {
        return false;
    }
    content = mmojo_read_inside(path);
    return true;
}

// Arguments say what code is loaded: those that somebody else has put beside the program, in /tmp for instance, are
// told of and left alone.
bool is_trusted(const std::string & path) {
    const std::string why = mmojo_is_inside(path.c_str()) ? "" : mmojo_distrusted(path);
    if (!why.empty()) {
        fprintf(stderr, "warning: the arguments in %s are not used: %s\n", path.c_str(), why.c_str());
    }
    return why.empty();
}

std::string support_folder() { return mmojo_own_container().folder + "/" + SUPPORT; }

// The files that are there, weakest first.
std::vector<arguments> read_files() {
    std::vector<arguments> files;
    std::string            text;
    for (const std::string & folder : { std::string("/zip"), support_folder(), mmojo_own_container().folder }) {
        const std::string plain = folder + "/" + NAME, yaml = plain + ".yaml";
        if (is_trusted(plain) && read_place(plain, text)) {
            files.push_back(mmojo_read_plain_args(text, plain));
        }
        if (is_trusted(yaml) && read_place(yaml, text)) {
            files.push_back(mmojo_read_yaml_args(text, yaml));
        }
    }
    return files;
}

// Every file goes around all that is stronger: what stands before its mark in front of it, the rest behind it.
arguments join(const std::vector<arguments> & files, arguments command_line) {
    arguments all = std::move(command_line);
    for (auto file = files.rbegin(); file != files.rend(); ++file) {
        const auto mark = std::find_if(file->begin(), file->end(), [](const mmojo_argument & one) { return one.mark; });
        arguments  around(file->begin(), mark);
        around.insert(around.end(), all.begin(), all.end());
        if (mark != file->end()) {
            around.insert(around.end(), mark + 1, file->end());
        }
        all = std::move(around);
    }
    return all;
}

// /support/NAME is the file in the support folder, if it is there.
void resolve(mmojo_argument & one) {
    if (one.text.compare(0, 9, "/support/") == 0) {
        const std::string path = support_folder() + one.text.substr(8);
        std::error_code   error;
        if (std::filesystem::exists(std::filesystem::u8path(path), error)) {
            one.text = path;
        }
    }
}

// The argument as the plain form would have it.
std::string quoted(const std::string & text) {
    const bool simple = !text.empty() && text != "..." && text[0] != '#' &&
                        std::all_of(text.begin(), text.end(), [](char c) { return is_name(c) || std::strchr("-./:=,+@%#", c); });
    if (simple) {
        return text;
    }
    std::string out = "\"";
    for (size_t at = 0; at < text.size(); at++) {
        const unsigned char c = text[at];
        if (c == '"' || c == '\\' || c == '$') {
            out += { '\\', static_cast<char>(c) };
        } else if (c < 0x20 || c == 0x7f || utf8_length(text, at) == 0) {
            char code[8];
            snprintf(code, sizeof code, "\\%03o", c);
            out += code;
        } else {
            const size_t length = utf8_length(text, at);
            out += text.substr(at, length);
            at += length - 1;
        }
    }
    return out + "\"";
}

std::string place_text(const mmojo_argument & one) {
    return one.line ? one.place + ":" + std::to_string(one.line) : "command line";
}

void print(const arguments & all) {
    printf("# The arguments that count, weakest first: of an option given more than once the last.\n");
    for (size_t i = 0; i < all.size();) {
        const std::string place = place_text(all[i]);
        std::string       line;
        size_t            next = i;
        // An option and its values on one line, if they stand on one line.
        do {
            line += (line.empty() ? "" : " ") + quoted(all[next].text);
            next++;
        } while (next < all.size() && place_text(all[next]) == place && all[next].text.compare(0, 1, "-") != 0);
        printf("%-40s # %s\n", line.c_str(), place.c_str());
        i = next;
    }
}

struct expanded {
    arguments           all; // from argv[1] on
    std::vector<char *> argv;
};

// Arguments are read once in a process; argv points into this for its whole life.
expanded & the_arguments() {
    static expanded one;
    return one;
}

// --modules is for what happens before any option is read; the last one counts, as of all options.
void choose_modules(const arguments & all) {
#if !defined(_WIN32)
    for (size_t i = 0; i + 1 < all.size(); i++) {
        if (all[i].text == "--modules") {
            setenv("MMOJO_MODULES", all[i + 1].text.c_str(), 1);
        }
    }
#else
    (void) all; // no modules are made for Windows
#endif
}

bool is_model(const std::string & name) {
    const std::string end = ".gguf";
    return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0 &&
           name.find('/') == std::string::npos && name.find("mmproj") == std::string::npos;
}

std::string first_model_in(const std::string & folder) {
    std::string     first;
    std::error_code error;
    for (std::filesystem::directory_iterator at(std::filesystem::u8path(folder), error), end; !error && at != end; at.increment(error)) {
        const std::string name = at->path().filename().u8string();
        if (is_model(name) && (first.empty() || name < first)) {
            first = name;
        }
    }
    return first.empty() ? "" : folder + "/" + first;
}

} // namespace

arguments mmojo_read_plain_args(const std::string & text, const std::string & place) {
    return plain_reader(checked(text, { place }), place).read();
}

arguments mmojo_read_yaml_args(const std::string & text, const std::string & place) {
    return yaml_reader(checked(text, { place }), place).read();
}

void mmojo_expand_args(int & argc, char **& argv) {
    expanded & done = the_arguments();
    arguments  command_line;
    for (int i = 1; i < argc; i++) {
        mmojo_argument one;
        one.text = argv[i];
        command_line.push_back(std::move(one));
    }
    const auto asked   = std::find_if(command_line.begin(), command_line.end(),
                                      [](const mmojo_argument & one) { return one.text == "--print-args"; });
    const bool printed = asked != command_line.end();
    if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
        fprintf(stderr, "mmojo-server, made from llama.cpp\n"); // whose version follows
    }
    if (printed) {
        command_line.erase(asked);
    }
    done.all = join(read_files(), std::move(command_line));
    for (mmojo_argument & one : done.all) {
        resolve(one);
    }
    if (printed) {
        print(done.all);
        exit(0);
    }
    done.argv = { argv[0] };
    for (mmojo_argument & one : done.all) {
        done.argv.push_back(&one.text[0]);
    }
    argc = static_cast<int>(done.argv.size());
    done.argv.push_back(nullptr);
    argv = done.argv.data();
    choose_modules(done.all);
}

bool mmojo_begins_place(int i) {
    const arguments & all = the_arguments().all;
    return i >= 2 && i <= static_cast<int>(all.size()) && all[i - 1].place != all[i - 2].place;
}

std::string mmojo_place_of(int i) {
    const arguments & all = the_arguments().all;
    return i >= 1 && i <= static_cast<int>(all.size()) && all[i - 1].line ? " (" + place_text(all[i - 1]) + ")" : "";
}

std::string mmojo_default_model() {
    const mmojo_container & own = mmojo_own_container();
    for (const mmojo_entry & entry : own.entries) { // sorted by name
        if (is_model(entry.name)) {
            return "/zip/" + entry.name;
        }
    }
    const std::string beside = first_model_in(own.folder);
    return beside.empty() ? first_model_in(support_folder()) : beside;
}
