"""The guard in every program: on a CPU that has less than the compiler was allowed, it says what is missing."""

from mmojo_forge.recipe import Component, Files

GUARD_FILES = {"guard": Files("guard")}
GUARD = Component("cpu-guard", licence="Apache-2.0", of="guard")

# For each of $GUARDED, NAME=CPU, compiled for the CPU that everything runs on.
GUARDED_BY_ZIG = r"""
for level in $GUARDED; do
    name=${level%%=*}
    sh /forge/guard/macros.sh /build/bin/cc -mcpu="${level#*=}" > /build/guards/$name.h
    /build/bin/cc -mcpu="$PLAINEST" -O1 -ffile-prefix-map=/forge/guard=guard -DFORGE_MACROS="\"/build/guards/$name.h\"" \
        -c /forge/guard/guard.c -o /build/guards/$name.o
done
"""

# For the one CPU that $CPU_FLAGS spell out.
GUARDED_BY_GCC = r"""
mkdir -p /build/home /build/bin /build/guards
sh /forge/guard/macros.sh /forge/gcc/bin/gcc $CPU_FLAGS > /build/guards/cpu.h
/forge/gcc/bin/gcc -O1 -ffile-prefix-map=/forge/guard=guard -DFORGE_MACROS='"/build/guards/cpu.h"' \
    -c /forge/guard/guard.c -o /build/guards/cpu.o
"""
