from typing import Literal

from mmojo_forge.recipe import Package, Spec, build, recipe
from recipes.lib.openssl import INSTALL, compiled
from recipes.lib.ran import WITHOUT_COSMOCC

NAMES = {"x86_64": "linux-x86_64", "aarch64": "linux-aarch64"}

# Static, and nothing that is loaded at run time, as in recipes/openssl. No assembler: what there is, is written for
# systems whose ABI is not Cosmopolitan's. Randomness comes from getentropy, which OpenSSL asks for weakly, so that who
# links with it has to ask for it as well (-Wl,-u,getentropy), or else from /dev/urandom.
# Certificates and settings are looked for inside the program's own file: on Windows a path without a drive is one that
# anybody may make.
FLAGS = (
    "threads",
    "no-afalgeng",
    "no-asm",
    "no-async",
    "no-autoload-config",
    "no-devcryptoeng",
    "no-dso",
    "no-engine",
    "no-ktls",
    "no-legacy",
    "no-module",
    "no-pic",
    "no-shared",
    "no-tests",
    "--with-rand-seed=getrandom,devrandom",
    "--prefix=/usr",
    "--libdir=lib",
    "--openssldir=/zip/usr/share/ssl",
)

# The command line of the compiler becomes part of the library: no path in it. make starts programs without a shell,
# which none of these needs.
TOOLS = r"""
mkdir -p "$TMPDIR" /build/home /build/bin
printf '#!/bin/sh\nexec /forge/cosmocc/bin/%s-unknown-cosmo-cc -O2 -Werror=date-time -ffile-prefix-map=/forge/cosmocc=cosmocc "$@"\n' \
    "$ARCH" > /build/bin/cc
for tool in ar ranlib; do
    printf '#!/bin/sh\nexec /forge/cosmocc/bin/%s-linux-cosmo-%s "$@"\n' "$ARCH" $tool > /build/bin/$tool
done
chmod 755 /build/bin/*
"""

# Without randomness every connection by TLS fails, and nothing else tells. Programs for arm64 cannot be run here.
TRY = r"""
cat > /build/try.c <<'END'
#include <openssl/rand.h>
#include <stdio.h>

int main(void) {
    unsigned char bytes[32];
    if (RAND_bytes(bytes, sizeof bytes) != 1) return 1;
    puts("random");
    return 0;
}
END
cc -Iinclude -c /build/try.c -o /build/try.o
cc /build/try.o libssl.a libcrypto.a -Wl,-u,getentropy -o /build/try
if [ "$ARCH" = x86_64 ] && [ "$(/forge/cosmocc/ape/ape /build/try)" != random ]; then
    echo 'OpenSSL has no randomness here: RAND_bytes fails' >&2
    exit 1
fi
"""

@recipe(
    "openssl-cosmo.x86_64",
    variants={"aarch64": {"arch": "aarch64"}},
    group="library",
    ran=dict.fromkeys(("openssl-cosmo.x86_64", "openssl-cosmo.aarch64"), WITHOUT_COSMOCC),
)
def openssl_cosmo(cosmocc: Package, userland: Package, *, arch: Literal["x86_64", "aarch64"] = "x86_64") -> Spec:
    """OpenSSL 3.0.22 by cosmocc for one architecture and all systems: libssl.a, libcrypto.a and their headers."""
    return build(
        f"openssl-cosmo-{arch}",
        userland=userland,
        inputs={"cosmocc": cosmocc, "checks": Package("cosmocc.checks"), "source": Package("openssl.source")},
        env={
            "PATH": "/forge/cosmocc/ape:/build/bin:/usr/bin:/forge/cosmocc/bin",
            "TMPDIR": "/build/tmp",
            "ARCH": arch,
            "NAME": NAMES[arch],
            "CC": "cc",
            "AR": "ar",
            "RANLIB": "ranlib",
        },
        parallel=True,
        phases={"tools": TOOLS, "compile": compiled(FLAGS), "try": TRY, "install": INSTALL},
    ).containing("source")
