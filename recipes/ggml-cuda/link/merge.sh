# Puts the device code of all architectures into one object of the host's: sh merge.sh NAME ARCHITECTURE...
#
# nvcc does the same between two of its steps: NVIDIA's own program packs cubins and PTX into one "fat" file, which is
# the content of the section .nv_fatbin. The options after -64 are those that nvcc gives.
set -eu
name=$1
shift
for architecture; do
    shift
    case $architecture in
    *-virtual) set -- "$@" "--image3=kind=ptx,sm=${architecture%-virtual},file=/forge/arch-$architecture/$name.ptx" ;;
    *) set -- "$@" "--image3=kind=elf,sm=$architecture,file=/forge/arch-$architecture/$name.cubin" ;;
    esac
done
/forge/nvcc/nvidia/cu13/bin/fatbinary --create="/build/o/$name.fatbin" -64 \
    --cicc-cmdline='-ftz=1 -prec_div=0 -prec_sqrt=0 -fmad=1 ' --compress-mode=size "$@"
/forge/gcc/bin/x86_64-linux-gnu-objcopy --update-section ".nv_fatbin=/build/o/$name.fatbin" "/forge/host/$name.o" "/build/o/$name.o"
rm "/build/o/$name.fatbin"
