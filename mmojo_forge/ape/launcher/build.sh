#!/bin/sh
# Builds the launchers that `mmojo_forge.ape link` takes:  ZIG=/path/to/zig OUT=/folder sh build.sh
#
# The same zig gives the same bytes, wherever this folder, OUT and zig's caches lie. Two flags matter to the linker:
#   --image-base   fixed (ET_EXEC, no relocations, no PT_DYNAMIC) and clear of APE's own loader and of 64 KiB pages
#   max-page-size  64 KiB, so that offsets and addresses agree for every page size of aarch64
set -eu

here=$(cd "$(dirname "$0")" && pwd)
: "${ZIG:?ZIG names the zig executable}" "${OUT:?OUT names the folder to write to}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)

cd "$here" # the compiler sees relative names only, whatever this folder is called

common="-std=c11 -Os -g0 -Wall -Wextra -Werror -Wno-unused-function -ffreestanding -fno-builtin -nostdlib -fno-stack-protector
 -fno-sanitize=all -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident"

build_linux() { # machine, image base, CPU
    # shellcheck disable=SC2086 # the flags are a list
    "$ZIG" cc -target "$1-linux-musl" -mcpu="$3" $common -static -fPIC -Wl,-z,max-page-size=65536 \
        -Wl,--image-base="$2" -Wl,--build-id=none -Wl,-e,_start -Wl,--gc-sections -s \
        -o "$OUT/linux-$1.elf" linux.c
}

build_windows() {
    # Without a C library zig leaves out the headers of Windows as well; they lie in its own lib folder.
    headers=$("$ZIG" env | sed -n 's/.*lib_dir.*"\([^"]*\)".*/\1/p')/libc/include/any-windows-any
    # shellcheck disable=SC2086
    "$ZIG" cc -target x86_64-windows-gnu -mcpu=x86_64 $common -isystem "$headers" -mno-stack-arg-probe \
        -Wl,--subsystem,console -Wl,-e,ape_main -s \
        -o "$OUT/windows-x86_64.exe" windows.c -lkernel32
    rm -f "$OUT/windows-x86_64.pdb" "$OUT/ape_main.lib"
}

build_linux x86_64 0x400000 x86_64
build_linux aarch64 0x800000000 generic
build_windows
