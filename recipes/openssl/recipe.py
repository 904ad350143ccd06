from typing import Literal

from mmojo_forge.recipe import Component, DebianFile, Package, Spec, build, quote, recipe, unpack

VERSION = "3.0.22"

# For each system: OpenSSL's name for it, zig's target and its plainest CPU (assembler chooses what it uses when it
# runs), and where the system's certificates lie. Windows has them elsewhere; the folder is one that only its
# administrators can write to, which those of a path without a drive are not.
SYSTEMS = {
    "linux-x86_64": {
        "name": "linux-x86_64",
        "target": "x86_64-linux-musl",
        "cpu": "x86_64",
        "certificates": "/etc/ssl",
    },
    # For programs that load modules, GPU backends, at run time.
    "linux-x86_64-gnu": {
        "name": "linux-x86_64",
        "target": "x86_64-linux-gnu.2.28",
        "cpu": "x86_64",
        "certificates": "/etc/ssl",
        # Such programs export what is visible to what they load, and a GPU's driver may have an OpenSSL of its own.
        "flags": ("-fvisibility=hidden",),
    },
    "linux-aarch64": {
        "name": "linux-aarch64",
        "target": "aarch64-linux-musl",
        "cpu": "generic",
        "certificates": "/etc/ssl",
    },
    "windows-x86_64": {
        "name": "mingw64",
        "target": "x86_64-windows-gnu",
        "cpu": "x86_64",
        "certificates": "C:/Program Files/Common Files/SSL",
    },
    "macos-aarch64": {
        "name": "darwin64-arm64-cc",
        "target": "aarch64-macos.13.0",
        "cpu": "apple_m1",
        "certificates": "/etc/ssl",
        # zig has no headers of Apple's CommonCrypto.
        "flags": ("-DOPENSSL_NO_APPLE_CRYPTO_RANDOM",),
    },
}

# Static, and nothing that is loaded at run time, be it code or a configuration: what a system has there is for the
# OpenSSL of that system.
FLAGS = (
    "threads",
    "no-autoload-config",
    "no-async",
    "no-dso",
    "no-engine",
    "no-legacy",
    "no-module",
    "no-shared",
    "no-tests",
    "--prefix=/usr",
    "--libdir=lib",
)

# The command line of the compiler becomes part of the library: no path in it.
ZIG_TOOLS = r"""
mkdir -p /build/home /build/bin
printf '#!/bin/sh\nexec /forge/zig/zig cc -target %s -mcpu=%s -g0 -Werror=date-time -ffile-prefix-map=/forge/zig=zig "$@"\n' \
    "$ZIG_TARGET" "$CPU" > /build/bin/cc
for tool in ar ranlib rc; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s "$@"\n' $tool > /build/bin/$tool
done
chmod 755 /build/bin/*
"""

# Configure would take a path of Windows for one below the prefix.
COMPILE = r"""
cp -r /forge/source /build/b
chmod -R u+w /build/b
cd /build/b
perl Configure "$NAME" "$@"
make -j"$FORGE_JOBS" build_generated
make -j"$FORGE_JOBS" OPENSSLDIR="$CERTIFICATES" libcrypto.a libssl.a
"""

INSTALL = r"""
mkdir -p /forge/out/out/include/openssl /forge/out/out/lib
cp include/openssl/*.h /forge/out/out/include/openssl
cp libcrypto.a libssl.a /forge/out/out/lib
cp LICENSE.txt /forge/out/out
if grep -a -l -e /build/ -e /forge/ /forge/out/out/lib/*; then
    echo 'paths of the sandbox got into the libraries above' >&2
    exit 1
fi
"""


def phases(flags, tools=""):
    configure = f"set -- {' '.join(quote(flag) for flag in (*FLAGS, *flags))}"
    return {**({"tools": tools} if tools else {}), "compile": f"{configure}\n{COMPILE}", "install": INSTALL}


@recipe("openssl.source")
def source() -> Spec:
    """The source of OpenSSL 3.0.22."""
    return unpack(
        "openssl-source",
        DebianFile(f"pool/updates/main/o/openssl/openssl_{VERSION}.orig.tar.gz"),
        strip_components=1,
    ).made_of(Component("openssl", VERSION, "Apache-2.0", cpe="openssl:openssl", notices=("LICENSE.txt",)))


@recipe(
    "openssl",
    variants={name: {"system": name} for name in SYSTEMS},
    group="library",
    ran={
        **dict.fromkeys(("openssl", "openssl.linux-x86_64"), "Debian 12 on x86-64 (Zen 5): TLS with itself"),
        "openssl.linux-aarch64": "qemu-user 7.2: TLS with itself",
        "openssl.windows-x86_64": "Wine 8: TLS with itself",
        "openssl.macos-aarch64": "never; programs link with it",
    },
)
def openssl(
    zig: Package,
    userland: Package,
    *,
    system: Literal[
        "linux-x86_64", "linux-x86_64-gnu", "linux-aarch64", "windows-x86_64", "macos-aarch64"
    ] = "linux-x86_64",
) -> Spec:
    """OpenSSL 3.0.22 by zig for one system: libssl.a, libcrypto.a and their headers; assembler on."""
    row = SYSTEMS[system]
    return build(
        f"openssl-{system}",
        userland=userland,
        inputs={"zig": zig, "source": Package("openssl.source")},
        env={
            "PATH": "/build/bin:/usr/bin",
            "ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_TARGET": row["target"],
            "CPU": row["cpu"],
            "NAME": row["name"],
            "CERTIFICATES": row["certificates"],
            "CC": "cc",
            "AR": "ar",
            "RANLIB": "ranlib",
            "RC": "rc",
        },
        parallel=True,
        phases=phases(row.get("flags", ()), ZIG_TOOLS),
    ).containing("source").for_systems(system.removesuffix("-gnu"))


@recipe("openssl.gcc", group="library", ran={"openssl.gcc": "Debian 12 on x86-64 (Zen 5): TLS with itself"})
def with_gcc(gcc: Package, userland: Package) -> Spec:
    """OpenSSL 3.0.22 by gcc for x86-64 Linux, to be linked with what gcc compiles."""
    return build(
        "openssl-gcc",
        userland=userland,
        inputs={"gcc": gcc, "source": Package("openssl.source")},
        env={
            "PATH": "/forge/gcc/bin:/usr/bin",
            "NAME": "linux-x86_64",
            "CERTIFICATES": "/etc/ssl",
            "CC": "gcc",
            "AR": "ar",
            "RANLIB": "ranlib",
        },
        parallel=True,
        phases=phases(("-Werror=date-time",)),
    ).containing("source").for_systems("linux-x86_64")
