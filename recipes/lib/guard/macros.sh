#!/bin/sh
# macros.sh COMPILER…: what the compiler, told so, may use of the CPU, as a header for guard.c.
"$@" -dM -E -x c /dev/null | sed -n 's/^#define __\([A-Z0-9_]*[A-Z0-9]\)__ 1$/#define NEED_\1 1/p; s/^#define __\(ARM_FEATURE_[A-Z0-9_]*\) 1$/#define NEED_\1 1/p' | sort
