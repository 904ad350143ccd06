# C, and C++ that throws, compile for both architectures to the same bytes in two folders:   programs.sh TOOLCHAIN PLACE REPORT
place=$2 report=$3 check=programs here=$(cd "$(dirname "$0")" && pwd)
. "$here/report.sh"

build() { # folder
    mkdir -p "$1"
    cd "$1"
    for arch in x86_64 aarch64; do
        "$place/bin/$arch-unknown-cosmo-cc" -O2 "-ffile-prefix-map=$1=." -c "$here/hello.c" -o "hello-$arch.o" \
            && "$place/bin/$arch-unknown-cosmo-cc" "hello-$arch.o" -o "hello-$arch" \
            || unexpected "a C program does not compile for $arch"
        "$place/bin/$arch-unknown-cosmo-cc" -O2 "-ffile-prefix-map=$1=." -c "$here/memchr.c" -o "memchr-$arch.o" \
            && "$place/bin/$arch-unknown-cosmo-cc" "memchr-$arch.o" -o "memchr-$arch" \
            || unexpected "a C program does not compile for $arch"
        "$place/bin/$arch-unknown-cosmo-c++" -O2 -fexceptions -frtti "-ffile-prefix-map=$1=." -c "$here/throw.cpp" -o "throw-$arch.o" \
            && "$place/bin/$arch-unknown-cosmo-c++" "throw-$arch.o" -o "throw-$arch" \
            || unexpected "a C++ program with exceptions does not compile for $arch"
    done
    for name in hello throw; do
        sh "$place/ape/join.sh" "$place" "$1/$name.ape" "$1/$name-x86_64" "$1/$name-aarch64" \
            || unexpected "apelink does not join the two programs $name"
    done
    cd - > /dev/null
}
work=$TMPDIR/programs
build "$work/one"
build "$work/another"
for file in hello-x86_64 hello-aarch64 throw-x86_64 throw-aarch64 hello.ape throw.ape; do
    if [ ! -f "$work/one/$file" ] || [ ! -f "$work/another/$file" ]; then
        unexpected "there is no $file"
    elif ! cmp "$work/one/$file" "$work/another/$file" >&2; then
        unexpected "$file differs between two folders: the compiler is not deterministic here"
    else
        found "$file" "$(sha256sum "$work/one/$file" | cut -c 1-64)"
    fi
done
expect() { # program, what it has to say
    said=$("$place/ape/ape" "$work/one/$1" 2>&1) || unexpected "$1 ended with exit code $?: $said"
    if [ "$said" != "$2" ]; then unexpected "$1 said '$said' instead of '$2'"; fi
}
expect hello-x86_64 'hello from C'
expect throw-x86_64 'caught in C++'
expect memchr-x86_64 'found nothing'
expect hello.ape 'hello from C'
expect throw.ape 'caught in C++'
for name in hello throw; do
    is=$(python3 -B "$here/joined.py" "$work/one/$name.ape") || is='not to be read'
    if [ "$is" != 'any, aarch64, x86_64, ape-1.10' ]; then
        unexpected "$name.ape is for ($is), not for any system, both architectures, with the loader ape-1.10"
    fi
done
found 'joined' 'for any system, both architectures, with a loader inside'
rm -r "$work"
conclude
