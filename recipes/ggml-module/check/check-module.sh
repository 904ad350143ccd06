#!/bin/sh
# Fails, and says why, if a module could not be loaded on every machine that it is for.
# usage: check-module.sh MODULE READELF FOLDER LIBRARIES KNOWN PATH
#   FOLDER     what readelf says is left there
#   LIBRARIES  those it may need beside glibc's: 'libvulkan.so.1'
#   KNOWN      what they have, as an extended regular expression for whole names: 'vk[A-Z].*'
#   PATH       where it has to say that libraries are: 'RUNPATH $ORIGIN' if it brings some, else ''
set -eu
module=$1
readelf=$2
folder=$3
libraries=$4
known=$5
place=$6
wrong=''
complain() {
    echo "$module: $1: $2" >&2
    wrong=yes
}

"$readelf" -dW "$module" > "$folder/dynamic"
"$readelf" -VW "$module" > "$folder/versions"
"$readelf" --dyn-syms -W "$module" | awk '$1 ~ /^[0-9]+:$/ && $8 != ""' > "$folder/symbols"

for library in $(sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' "$folder/dynamic"); do
    case " $libraries libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 " in
    *" $library "*) continue ;;
    esac
    case $library in
    ld-linux-*.so.*) ;;
    *) complain 'needs a library that not every machine has' "$library" ;;
    esac
done

path=$(sed -n 's/.*(\(RPATH\|RUNPATH\)).*\[\(.*\)\].*/\1 \2/p' "$folder/dynamic")
if [ "$path" != "$place" ]; then complain 'looks for libraries elsewhere than beside itself' "$path"; fi

newest=$(grep -o 'GLIBC_[0-9.]*' "$folder/versions" | sort -V | tail -n 1)
if [ "$(printf '%s\nGLIBC_2.28\n' "$newest" | sort -V | tail -n 1)" != GLIBC_2.28 ]; then
    complain 'needs a newer glibc than 2.28' "$newest"
fi

# Those that are no number are newer as well (GLIBC_ABI_DT_RELR), or nobody's to rely on (GLIBC_PRIVATE).
odd=$(grep -o 'GLIBC_[A-Z][A-Z0-9_]*' "$folder/versions" | LC_ALL=C sort -u | paste -s -d ' ')
if [ -n "$odd" ]; then complain 'needs a glibc that not every machine has' "$odd"; fi

exports=$(awk '$7 != "UND" { print $8 }' "$folder/symbols")
if [ "$exports" != ggml_backend_init ]; then complain 'does not export ggml_backend_init alone' "$exports"; fi

# What the program has, its libraries have, and a version of glibc; weak ones may be missing.
unknown=$(awk -v known="^(ggml_.*|gguf_.*|$known)\$" \
    '$7 == "UND" && $5 != "WEAK" && $8 !~ known && $8 !~ /@/ { print $8 }' "$folder/symbols" | head -n 9)
if [ -n "$unknown" ]; then complain 'needs what nobody has' "$unknown"; fi

if ! grep -q NODELETE "$folder/dynamic"; then complain 'can be unloaded, with destructors left to run' 'no NODELETE'; fi

"$readelf" -nW "$module" | grep -q mmojo || complain 'says nothing of itself' 'no note of mmojo'

paths=$(grep -a -o -e '/forge/[a-z/]*' -e '/build/[a-z/]*' "$module" | LC_ALL=C sort -u | paste -s -d ' ')
if [ -n "$paths" ]; then complain 'has paths of the sandbox in it' "$paths"; fi

if [ -n "$wrong" ]; then exit 1; fi
