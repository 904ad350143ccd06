// GPU backends as modules: libggml-NAME.so, loaded when the program starts, where there is a driver for it.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Loads every module that there is for this system, once in a process. What cannot be used is one line in the log, and
// never more: the CPU does the work then. A program that cannot load any itself, being linked statically, is replaced
// by the one that lies with the modules, which is the same for glibc; then this does not return.
//
// The environment variable MMOJO_MODULES is `none`, or a folder to take them from instead of the usual places.
void mmojo_load_modules(void);

#ifdef __cplusplus
}
#endif
