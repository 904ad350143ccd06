# The headers that llama.cpp asks for by name are there:   headers.sh TOOLCHAIN PLACE REPORT
place=$2 report=$3 check=headers
. "$(dirname "$0")/report.sh"

for header in linux/limits.h sys/syslimits.h unistd.h pthread.h sys/mman.h spawn.h dlfcn.h; do
    if [ -e "$place/include/$header" ] || [ -e "$place/include/libc/isystem/$header" ]; then
        found "$header" 'there'
    else
        unexpected "there is no include/$header"
    fi
done
if [ ! -e "$place/include/third_party/libcxx/vector" ]; then
    unexpected 'there is no include/third_party/libcxx/vector: the C++ library lies elsewhere'
fi
conclude
