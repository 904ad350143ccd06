// Stand-in for APE's loader: `ape PROGRAM ARGUMENTS` or `ape - PROGRAM ARGV0 ARGUMENTS` runs the program by a shell.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char ** argv) {
    int named = argc > 3 && strcmp(argv[1], "-") == 0;
    if (argc < 2 || (argc < 4 && strcmp(argv[1], "-") == 0)) {
        fputs("usage: ape PROGRAM ARGUMENTS, or: ape - PROGRAM ARGV0 ARGUMENTS\n", stderr);
        return 1;
    }
    const char * program = argv[named ? 2 : 1];
    if (access(program, X_OK) != 0) {
        fprintf(stderr, "ape: %s: not found (maybe chmod +x)\n", program);
        return 127;
    }
    setenv("STANDIN_LOADED", "1", 1);
    setenv("STANDIN_ARGV0", named ? argv[3] : program, 1);
    char ** rest = argv + (named ? 2 : 0);
    rest[0] = "sh";
    rest[1] = (char *) program;
    execv("/bin/sh", rest);
    perror("/bin/sh");
    return 1;
}
