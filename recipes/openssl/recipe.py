from typing import Literal

from mmojo_forge.recipe import Component, DebianFile, Package, Spec, build, recipe, unpack
from recipes.lib.openssl import INSTALL, compiled
from recipes.lib.ran import DEBIAN, QEMU, WINE
from recipes.lib.zig import CACHE, SYSTEMS, base_of, tool_text

VERSION = "3.0.22"

# For each system OpenSSL's name for it, and where the system's certificates lie (assembler chooses what it uses of a CPU
# when it runs). Windows has them elsewhere; the folder is one that only its administrators can write to, which those of
# a path without a drive are not.
NAMES = {
    "linux-x86_64": ("linux-x86_64", "/etc/ssl"),
    "linux-x86_64-gnu": ("linux-x86_64", "/etc/ssl"),
    "linux-aarch64": ("linux-aarch64", "/etc/ssl"),
    "windows-x86_64": ("mingw64", "C:/Program Files/Common Files/SSL"),
    "macos-aarch64": ("darwin64-arm64-cc", "/etc/ssl"),
}
OWN_FLAGS = {
    # Its programs export what is visible to what they load, and a GPU's driver may have an OpenSSL of its own.
    "linux-x86_64-gnu": ("-fvisibility=hidden",),
    # zig has no headers of Apple's CommonCrypto.
    "macos-aarch64": ("-DOPENSSL_NO_APPLE_CRYPTO_RANDOM",),
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
ZIG_TOOLS = rf"""
mkdir -p /build/home /build/bin
printf '#!/bin/sh\nexec /forge/zig/zig cc -target %s -mcpu=%s -g0 -Werror=date-time -ffile-prefix-map=/forge/zig=zig "$@"\n' \
    "$ZIG_TARGET" "$CPU" > /build/bin/cc
{tool_text("ar", "ranlib", "rc")}"""

# Configure would take a path of Windows for one below the prefix.
CERTIFICATES = ' OPENSSLDIR="$CERTIFICATES"'


def phases(flags, tools=""):
    compile = compiled((*FLAGS, *flags), CERTIFICATES)
    return {**({"tools": tools} if tools else {}), "compile": compile, "install": INSTALL}


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
    variants={name: {"system": name} for name in NAMES},
    group="library",
    ran={
        **dict.fromkeys(("openssl", "openssl.linux-x86_64"), f"{DEBIAN}: TLS with itself"),
        "openssl.linux-aarch64": f"{QEMU}: TLS with itself",
        "openssl.windows-x86_64": f"{WINE}: TLS with itself",
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
    name, certificates = NAMES[system]
    return build(
        f"openssl-{system}",
        userland=userland,
        inputs={"zig": zig, "source": Package("openssl.source")},
        env={
            "PATH": "/build/bin:/usr/bin",
            **CACHE,
            "ZIG_TARGET": SYSTEMS[system].target,
            "CPU": SYSTEMS[system].cpu,
            "NAME": name,
            "CERTIFICATES": certificates,
            "CC": "cc",
            "AR": "ar",
            "RANLIB": "ranlib",
            "RC": "rc",
        },
        parallel=True,
        phases=phases(OWN_FLAGS.get(system, ()), ZIG_TOOLS),
    ).containing("source").for_systems(base_of(system))


@recipe("openssl.gcc", group="library", ran={"openssl.gcc": f"{DEBIAN}: TLS with itself"})
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
