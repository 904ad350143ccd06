# The headers that llama.cpp asks for by name are there:   headers.sh TOOLCHAIN PLACE REPORT
place=$2 report=$3 check=headers
. "$(dirname "$0")/report.sh"

headers='linux/limits.h sys/syslimits.h unistd.h pthread.h sys/mman.h spawn.h dlfcn.h'
for header in $headers; do
    if [ -e "$place/include/$header" ]; then
        found "$header" 'there'
    else
        unexpected "there is no include/$header"
    fi
done
if [ ! -e "$place/include/third_party/libcxx/vector" ]; then
    unexpected 'there is no include/third_party/libcxx/vector: the C++ library lies elsewhere'
fi
if [ "$(cat "$place/include/sys/syslimits.h")" = '#include <linux/limits.h>' ]; then
    found 'sys/syslimits.h' 'made by us, not in the zip'
fi
# Where the compilers look is another question than where they lie.
mkdir -p "$TMPDIR/headers"
for header in $headers; do echo "#include <$header>"; done > "$TMPDIR/headers/all.c"
for arch in x86_64 aarch64; do
    "$place/bin/$arch-unknown-cosmo-cc" -c "$TMPDIR/headers/all.c" -o "$TMPDIR/headers/all-$arch.o" \
        || unexpected "the compiler for $arch does not find all of them"
done
rm -r "$TMPDIR/headers"
conclude
