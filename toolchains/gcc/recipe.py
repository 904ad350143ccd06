from mmojo_forge.recipe import Component, Debian, Package, Spec, build, recipe, unpack

PACKAGES = (
    "binutils",
    "g++-12",
    "gcc-12",
    "libc6-dev",
    "patchelf",  # for this recipe only
)

# Of documentation the licences alone.
NOTICE = "share/doc/gcc-12-base/copyright"
NOTICE_OF_LIBC = "share/doc/libc6-dev/copyright"
INCLUDED = ("[!u]*", "usr/[!s]*", f"usr/{NOTICE}", f"usr/{NOTICE_OF_LIBC}")

# What no build of ours needs: profilers, sanitizers, and what libc6-dev draws in for RPC.
EXCLUDED = (
    "usr/bin/*gp-*",
    "usr/bin/*gprof*",
    "usr/bin/*lto-dump*",
    "usr/bin/rpcgen",
    "usr/lib/gcc/x86_64-linux-gnu/12/plugin",
    "usr/lib/x86_64-linux-gnu/engines-3",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/gprofng",
    "usr/lib/x86_64-linux-gnu/krb5",
    "usr/lib/x86_64-linux-gnu/ossl-modules",
    "**/libasan*",
    "**/libcom_err.so*",
    "**/libcrypto.so*",
    "**/libgprofng*",
    "**/libgssapi_krb5*",
    "**/libk5crypto*",
    "**/libkeyutils*",
    "**/libkrb5*",
    "**/liblsan*",
    "**/libssl.so*",
    "**/libtsan*",
    "**/libubsan*",
    # Without these -fopenmp links libgomp.a, and so on: userlands, and perhaps the machines that run what is built,
    # do not have the shared libraries. In shared libraries OpenMP therefore cannot be used.
    "usr/lib/gcc/x86_64-linux-gnu/12/libatomic.so",
    "usr/lib/gcc/x86_64-linux-gnu/12/libgomp.so",
    "usr/lib/gcc/x86_64-linux-gnu/12/libitm.so",
    "usr/lib/gcc/x86_64-linux-gnu/12/libquadmath.so",
)

# What gcc links into programs that are linked statically, under the names of Debian's packages. Whoever passes such a
# program on has to offer what the LGPL asks for glibc.
GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
LIBRARIES_LINKED = (
    Component("libc6-dev", licence="LGPL-2.1-or-later", cpe="gnu:glibc", notices=(NOTICE_OF_LIBC,)),
    Component("libgcc-12-dev", licence=GCC, notices=(NOTICE,)),
    Component("libstdc++-12-dev", licence=GCC, notices=(NOTICE,)),
    Component("gcc-12", licence="GPL-3.0-or-later"),
    Component("g++-12", licence="GPL-3.0-or-later"),
)

# The compilers bring their own libc and other libraries, which the userland's version must not mix with. A path in
# the programs themselves, unlike LD_LIBRARY_PATH, reaches no process but theirs.
LIBRARIES = r"""
cp -a /forge/tree /build/gcc
chmod -R u+w /build/gcc
cd /build/gcc
own() {
    if /forge/tree/bin/patchelf --print-interpreter "$1" > /dev/null 2>&1; then
        /forge/tree/bin/patchelf --set-interpreter /forge/gcc/lib64/ld-linux-x86-64.so.2 \
            --force-rpath --set-rpath "$2" "$1"
    fi
}
rm -r bin/patchelf share
for program in bin/*; do
    if [ ! -L "$program" ]; then own "$program" '$ORIGIN/../lib/x86_64-linux-gnu'; fi
done
for program in lib/gcc/x86_64-linux-gnu/12/*; do
    if [ -f "$program" ] && [ ! -L "$program" ]; then own "$program" '$ORIGIN/../../../x86_64-linux-gnu'; fi
done
"""

# Debian's compilers look for headers and libraries in /, unless told. Relative to themselves they find only their own
# parts, and as, ld and the like in x86_64-linux-gnu/bin. What the processor says of itself is seen in sandboxes too.
NAMES = r"""
cd /build/gcc
mkdir -p x86_64-linux-gnu/bin
for tool in ar as ld ld.bfd nm objcopy objdump ranlib readelf strip; do
    ln -s "../../bin/x86_64-linux-gnu-$tool" "x86_64-linux-gnu/bin/$tool"
done
for tool in ar nm ranlib; do
    ln -s "gcc-$tool-12" "bin/gcc-$tool"
done
wrap() {
    rm -f "bin/$1"
    cat > "bin/$1" <<END
#!/bin/sh
case " \$* " in *' -march=native '* | *' -mtune=native '* | *' -mcpu=native '*)
    echo "$1: compile for this machine's CPU: -march=native and its like are not allowed, as the result would depend on" >&2
    echo "the machine that builds. Name the CPU or its features; recipes have them from host facts." >&2
    exit 1 ;;
esac
exec /forge/gcc/bin/x86_64-linux-gnu-$2 --sysroot=/forge/gcc "\$@"
END
    chmod 755 "bin/$1"
}
for name in cc gcc gcc-12; do wrap "$name" gcc-12; done
for name in c++ g++ g++-12; do wrap "$name" g++-12; done
for name in cpp cpp-12; do wrap "$name" cpp-12; done
"""

INSTALL = "cp -a /build/gcc/. /forge/out/out"


@recipe("gcc.tree")
def tree() -> Spec:
    """Debian 12's gcc 12, binutils and glibc as Debian lays them out; `gcc` is what to build with."""
    return unpack(
        "gcc-tree",
        Debian("gcc", "bookworm", PACKAGES),
        debian_usr=True,
        include=INCLUDED,
        exclude=EXCLUDED,
        symlinks={"usr": "."},  # so that it is its own sysroot: usr/include, usr/lib
    ).made_of(*LIBRARIES_LINKED)


@recipe("gcc")
def gcc(userland: Package) -> Spec:
    """Debian 12's gcc 12: C, C++, OpenMP, LTO, against glibc; an input named `gcc`, with /forge/gcc/bin in PATH.

    It compiles for x86-64 Linux only, and is run at /forge/gcc only.
    """
    return build(
        "gcc-12.2",
        userland=userland,
        inputs={"tree": Package("gcc.tree")},
        phases={"libraries": LIBRARIES, "names": NAMES, "install": INSTALL},
    ).containing("tree")
