// Cosmopolitan's memchr has crashed on no memory and no bytes, which C++ libraries ask for. The compiler must not know.
#include <stdio.h>
#include <string.h>

int main(void) {
    const void *volatile nowhere = NULL;
    volatile size_t nothing = 0;
    if (memchr(nowhere, 'x', nothing)) return 1;
    puts("found nothing");
    return 0;
}
