# One APE of a program for each architecture, for all systems:   join.sh PLACE OUT X86_64 AARCH64
#
# Without the loaders a program would rewrite itself when it is first run; Apple's silicon wants its loader as source.
set -eu
"$1/bin/apelink" -o "$2" -l "$1/bin/ape-x86_64.elf" -l "$1/bin/ape-aarch64.elf" -M "$1/bin/ape-m1.c" "$3" "$4"
