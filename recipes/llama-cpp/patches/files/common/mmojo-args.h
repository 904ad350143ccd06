// Arguments from files: `mmojo-server-args` and `mmojo-server-args.yaml` inside the program's file, in
// mmojo-server-support/ beside it, and beside it. The grammar of both is docs/args.md of mmojo-forge.
#pragma once

#include <string>
#include <vector>

// One argument and where it was written. `mark` is the token `...`, which stands for all stronger arguments.
struct mmojo_argument {
    std::string text;
    bool        mark   = false;
    int         line   = 0;  // 0: the command line
    std::string place  = ""; // the file; "" for the command line
};

// The arguments of the plain form and of the YAML form. Throw std::runtime_error: `error[args-WHY]: PLACE:LINE: …`.
std::vector<mmojo_argument> mmojo_read_plain_args(const std::string & text, const std::string & place);
std::vector<mmojo_argument> mmojo_read_yaml_args(const std::string & text, const std::string & place);

// Replaces the command line by what the files and it come to; what `argv` then points to lives as long as the process.
// With --print-args it prints that and ends the process. Throws std::runtime_error.
void mmojo_expand_args(int & argc, char **& argv);

// Whether the argument `i` is the first one of its place, and where it was written: "" or " (PLACE:LINE)".
bool        mmojo_begins_place(int i);
std::string mmojo_place_of(int i);

// The model to take when none was asked for: the first *.gguf by name inside the program's file, beside it, or in
// mmojo-server-support/; "" if there is none.
std::string mmojo_default_model();
