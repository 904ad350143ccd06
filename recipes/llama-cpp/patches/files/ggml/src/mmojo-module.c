// What a backend that is loaded at run time says of itself, read before any of its code runs (mmojo-modules.cpp).
//
// An ELF note of the owner "mmojo" and type 1; its text has a line KEY=VALUE for each fact:
//   ggml     what ggml's headers hash to (mmojo-abi.h): a module works with a program of the same headers only
//   needs    the library of the driver, without which it is not worth loading (libcuda.so.1)
//   driver   the least that the driver must be, as cuDriverGetVersion counts (13000); absent if it does not matter
#include "mmojo-abi.h"

#ifndef MMOJO_MODULE_DRIVER
#define MMOJO_MODULE_DRIVER ""
#endif

#define MMOJO_MODULE_TEXT "ggml=" MMOJO_GGML_ABI "\nneeds=" MMOJO_MODULE_NEEDS "\n" MMOJO_MODULE_DRIVER

static const struct {
    unsigned int owner_size;
    unsigned int text_size;
    unsigned int type;
    char         owner[8];
    char         text[(sizeof(MMOJO_MODULE_TEXT) + 3) / 4 * 4];
} mmojo_module __attribute__((section(".note.mmojo"), used, aligned(4))) = {
    6, sizeof(MMOJO_MODULE_TEXT), 1, "mmojo", MMOJO_MODULE_TEXT,
};
