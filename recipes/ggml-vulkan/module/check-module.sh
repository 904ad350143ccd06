#!/bin/sh
# Fails, and says why, if a module could not be loaded on every machine that it is for:
# check-module.sh MODULE READELF FOLDER; what readelf says is left in FOLDER.
set -eu
module=$1
readelf=$2
folder=$3
wrong=''
complain() {
    echo "$module: $1: $2" >&2
    wrong=yes
}

"$readelf" -dW "$module" > "$folder/dynamic"
"$readelf" -VW "$module" > "$folder/versions"
"$readelf" --dyn-syms -W "$module" | awk '$1 ~ /^[0-9]+:$/ && $8 != ""' > "$folder/symbols"

for library in $(sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' "$folder/dynamic"); do
    case $library in
        libvulkan.so.1 | libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux-*.so.*) ;;
        *) complain 'needs a library that not every machine has' "$library" ;;
    esac
done

newest=$(grep -o 'GLIBC_[0-9.]*' "$folder/versions" | sort -V | tail -n 1)
if [ "$(printf '%s\nGLIBC_2.28\n' "$newest" | sort -V | tail -n 1)" != GLIBC_2.28 ]; then
    complain 'needs a newer glibc than 2.28' "$newest"
fi

exports=$(awk '$7 != "UND" { print $8 }' "$folder/symbols")
if [ "$exports" != ggml_backend_init ]; then complain 'does not export ggml_backend_init alone' "$exports"; fi

# What the program has, the loader has, and a version of glibc; weak ones may be missing.
loader=$(sed -n 's/^void \(vk[A-Za-z0-9]*\)(void).*/\1/p' "$(dirname "$0")/loader.c" | paste -s -d '|')
unknown=$(awk -v known="^(ggml_.*|gguf_.*|$loader)\$" \
    '$7 == "UND" && $5 != "WEAK" && $8 !~ known && $8 !~ /@/ { print $8 }' "$folder/symbols")
if [ -n "$unknown" ]; then complain 'needs what nobody has' "$unknown"; fi

if ! grep -q NODELETE "$folder/dynamic"; then complain 'can be unloaded, with destructors left to run' 'no NODELETE'; fi

"$readelf" -nW "$module" | grep -q mmojo || complain 'says nothing of itself' 'no note of mmojo'

if [ -n "$wrong" ]; then exit 1; fi
