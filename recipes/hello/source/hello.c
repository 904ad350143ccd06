/* Says where it runs and what it was given; its exit code is the number of its arguments. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const char *container = getenv("APE_FILE");
    printf("hello from %s\n", SYSTEM);
    if (container) printf("container %s\n", container);
    for (int i = 1; i < argc; i++) printf("argument %s\n", argv[i]);
    return argc - 1;
}
