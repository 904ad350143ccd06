# Compiles one file of ggml's CUDA backend: for one architecture (cubin, ptx), or the host's part of it.
# usage: sh compile.sh cubin|ptx|host ARCHITECTURE SOURCE
#
# The host's part knows no architecture; but nvcc makes it with the help of its device compiler, for one. The PTX that it
# has then is kept, in the output `ptx`.
#
# nvcc is asked for the commands that it would run, and these are run, but for one thing: compilers give a name of their
# own making to each file, with a process id in it, which gets into the names of what is `static`. It is given to them
# instead, so that two builds are alike, and so that host and device call a thing by the same name.
set -eu
what=$1
architecture=$2
source=$3
name=$(basename "$source" .cu)
out=/forge/out/out
cuda=/forge/nvcc/nvidia/cu13
# A folder of its own: the temporary names that nvcc makes up otherwise have a process id in them as well.
keep=/build/keep/$name
mkdir -p "$keep" "$out"

commands() {
    "$cuda/bin/nvcc" --dryrun -ccbin /forge/gcc/bin/g++ -std=c++17 -O3 -DNDEBUG -use_fast_math -extended-lambda \
        -include /build/config.h -I/forge/source/include -I/forge/source/src -isystem /forge/blas/nvidia/cu13/include \
        -Xcompiler -fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden,-Werror=date-time,-Wno-pedantic \
        -Xcompiler -ffile-prefix-map=/forge/source=ggml,-ffile-prefix-map=/build=.,-ffile-prefix-map=/forge/nvcc=nvcc \
        --keep --keep-dir "$keep" "$@" "$source"
}

run() {
    commands "$@" > "$keep/said" 2>&1 || { cat "$keep/said" >&2; exit 1; }
    printf '_%s_%s' "${#name}" "$(printf '%s' "$name" | tr -c 'A-Za-z0-9' _)" > "$keep/$name.module_id"
    # The other lines set variables, of which the commands use one.
    sed -n 's/^#\$ //p' "$keep/said" | grep -v '^[A-Za-z_]*=' | sed 's/ --gen_module_id_file / /' > "$keep/commands"
    CICC_PATH=$cuda/nvvm/bin PATH=$cuda/bin:$PATH sh -eu "$keep/commands"
}

case $what in
cubin) run --cubin -gencode "arch=compute_$architecture,code=sm_$architecture" -o "$out/$name.cubin" ;;
ptx) run --ptx -gencode "arch=compute_$architecture,code=compute_$architecture" -o "$out/$name.ptx" ;;
host)
    run -c -gencode "arch=compute_$architecture,code=compute_$architecture" -o "$out/$name.o"
    mkdir -p /forge/out/ptx
    mv "$keep/$name.ptx" /forge/out/ptx
    ;;
esac
rm -rf "$keep"
echo "$name"
