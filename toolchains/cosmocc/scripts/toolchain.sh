# A toolchain that runs where nothing knows of APE, made of cosmocc's tree:   toolchain.sh TREE OUT PLACE
#
# TREE is the unpacked zip, OUT the folder to make, PLACE where OUT will lie when it is used. Linux starts no file that
# begins with MZ, unless binfmt_misc was taught to, perhaps wrongly; what is no shell gives up. So each program of
# that kind gets a shell script in its place, which starts it by APE's own loader: nobody is asked what a file is, and
# no loader unpacks itself. The program keeps its folder, in which compilers look for their parts, and its argv[0].
set -eu
tree=$1 out=$2 place=$3

magic() { # the first eight bytes of a file, in hexadecimal
    head -c 8 "$1" | od -An -v -tx1 | tr -d ' \n'
}

if [ -e "$tree/ape" ]; then
    echo "toolchain: the archive has an ape/ of its own, where the loader is to lie" >&2
    exit 1
fi
if [ "$(magic "$tree/bin/ape-x86_64.elf" | cut -c 1-8)" != 7f454c46 ]; then
    echo 'toolchain: bin/ape-x86_64.elf is no ELF file, but should be the loader for this machine' >&2
    exit 1
fi
mkdir -p "$out/ape"
cp -R -P "$tree/." "$out"
chmod -R u+w "$out"
cp "$out/bin/ape-x86_64.elf" "$out/ape/ape"
chmod 755 "$out/ape/ape"
cp "$(dirname "$0")/join.sh" "$out/ape/join.sh"

find "$out/bin" "$out/libexec" "$out"/*-linux-cosmo/bin -type f 2> /dev/null | LC_ALL=C sort > "$out.programs"
shims=0
while IFS= read -r file; do
    case $(magic "$file") in
        4d5a714670443d27 | 6a61727473723d27 | 4150454442473d27)
            name=${file#"$out"/}
            mv "$file" "$file.real"
            printf '#!/bin/sh\nexec %s/ape/ape - %s/%s.real "$0" "$@"\n' "$place" "$place" "$name" > "$file"
            chmod 755 "$file" "$file.real"
            shims=$((shims + 1)) ;;
        2321* | 7f454c46*)
            # One of the scripts comes without leave to be run.
            chmod 755 "$file" ;;
    esac
done < "$out.programs"
rm "$out.programs"
if [ "$shims" = 0 ]; then
    echo 'toolchain: no program in bin/ or libexec/ is an APE' >&2
    exit 1
fi

# What llama.cpp includes for PATH_MAX on a system that it does not know.
if [ ! -e "$out/include/sys/syslimits.h" ]; then
    mkdir -p "$out/include/sys"
    echo '#include <linux/limits.h>' > "$out/include/sys/syslimits.h"
fi
echo "toolchain: $shims programs behind shims"
