# Fails, and says why, if the module could not be loaded on every machine that it is for: sh check-module.sh MODULE
set -eu
module=$1
readelf=/forge/gcc/bin/x86_64-linux-gnu-readelf
wrong=''
complain() {
    echo "$module: $1: $2" >&2
    wrong=yes
}

"$readelf" -dW "$module" > /build/dynamic
"$readelf" -VW "$module" > /build/versions
"$readelf" --dyn-syms -W "$module" | awk '$1 ~ /^[0-9]+:$/ && $8 != ""' > /build/symbols

for library in $(sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' /build/dynamic); do
    case $library in
    libcuda.so.1 | libcublas.so.13) ;;
    libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux-x86-64.so.2) ;;
    *) complain 'needs a library that not every machine has' "$library" ;;
    esac
done

path=$(sed -n 's/.*(\(RPATH\|RUNPATH\)).*\[\(.*\)\].*/\1 \2/p' /build/dynamic)
if [ "$path" != 'RUNPATH $ORIGIN' ]; then complain 'looks for libraries elsewhere than beside itself' "$path"; fi

newest=$(grep -o 'GLIBC_[0-9.]*' /build/versions | sort -V | tail -n 1)
if [ "$(printf '%s\nGLIBC_2.28\n' "$newest" | sort -V | tail -n 1)" != GLIBC_2.28 ]; then
    complain 'needs a newer glibc than 2.28' "$newest"
fi

exports=$(awk '$7 != "UND" { print $8 }' /build/symbols)
if [ "$exports" != ggml_backend_init ]; then complain 'does not export ggml_backend_init alone' "$exports"; fi

# What the program has, the driver and cuBLAS have, and a version of glibc. Weak ones may be missing.
unknown=$(awk '$7 == "UND" && $5 != "WEAK" && $8 !~ /^(ggml_|gguf_|cublas|cu[A-Z])/ && $8 !~ /@/ { print $8 }' /build/symbols | head -n 9)
if [ -n "$unknown" ]; then complain 'needs what nobody has' "$unknown"; fi

"$readelf" -nW "$module" | grep -q mmojo || complain 'says nothing of itself' 'no note of mmojo'

paths=$(grep -a -o -e '/forge/[a-z/]*' -e '/build/[a-z/]*' "$module" | sort -u | paste -s -d ' ')
if [ -n "$paths" ]; then complain 'has paths of the sandbox in it' "$paths"; fi

if [ -n "$wrong" ]; then exit 1; fi
