// What the C++ runtime of gcc 12 takes from a glibc newer than 2.28, which the module is for. Hidden: nobody else's.

// Whether a process has one thread only, so that counters need no atomic instructions (glibc 2.32). It may say no always.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
