#!/bin/sh
# Writes mmojo-abi.h: what the headers hash to by which a module and the program that loads it understand each other.
# usage: sh mmojo-abi.sh GGML_FOLDER > mmojo-abi.h
set -eu
cd "$1"
set -- include/ggml.h include/ggml-alloc.h include/ggml-backend.h src/ggml-impl.h src/ggml-backend-impl.h
for header; do
    if [ ! -s "$header" ]; then
        echo "mmojo-abi: there is no $header, and so nothing to tell versions of ggml apart by" >&2
        exit 1
    fi
done
hash=$(cat "$@" | sha256sum)
printf '#define MMOJO_GGML_ABI "%.16s"\n' "$hash"
