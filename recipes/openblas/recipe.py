from typing import Literal

from mmojo_forge.recipe import Component, DebianFile, Package, Spec, build, recipe, unpack
from recipes.lib.autotools import NEW_COPY
from recipes.lib.ran import DEBIAN

VERSION = "0.3.21"

# For `dynamic`: one set of kernels each for x86-64-v2, AVX2 (Intel, AMD), AVX-512, AVX-512 with BF16. The slowest, for
# CPUs without SSE4.2, is always there. This version has no choice at run time for Sapphire Rapids: it is Cooper Lake.
CORES = "NEHALEM HASWELL ZEN SKYLAKEX COOPERLAKE"

# getarch, which writes the configuration, is compiled for the machine that builds, unless told; it asks that
# machine's CPU for nothing else as long as it knows the target.
PREPARE = rf"""{NEW_COPY}sed -i 's/^GETARCH_FLAGS += -march=native$//' Makefile.system
if grep -rn -e '-march=native' Makefile.system Makefile.prebuild Makefile.x86_64 kernel/Makefile*; then exit 1; fi
"""

COMPILE = r"""
if [ "$CORE" = dynamic ]; then
    target=PRESCOTT
    set -- DYNAMIC_ARCH=1 DYNAMIC_LIST="$CORES"
else
    target=$CORE
    set --
fi
set -- "$@" TARGET="$target" BINARY=64 CC=gcc HOSTCC=gcc AR=ar RANLIB=ranlib NOFORTRAN=1 NO_LAPACK=1 NO_LAPACKE=1 \
    NO_SHARED=1 USE_THREAD=1 USE_OPENMP="$OPENMP" NUM_THREADS=64 NO_AFFINITY=1 COMMON_OPT='-O2 -Werror=date-time'
if [ "$COMPLETE" = 0 ]; then set -- "$@" BUILD_SINGLE=1; fi
make -j"$FORGE_JOBS" MAKE_NB_JOBS=-1 "$@" libs
grep -qx "CORE=$target" Makefile.conf  # a target that getarch does not know would be this machine's CPU
"""

INSTALL = r"""
make "$@" PREFIX=/build/installed install
mkdir -p /forge/out/out/include /forge/out/out/lib/pkgconfig
cp /build/installed/include/{cblas,f77blas,openblas_config}.h /forge/out/out/include
cp -L /build/installed/lib/libopenblas.a /forge/out/out/lib
if [ "$OPENMP" = 1 ]; then threads=-lgomp; else threads=; fi
cat > /forge/out/out/lib/pkgconfig/openblas.pc <<END
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: openblas
Description: OpenBLAS, a static library
Version: $VERSION
Libs: -L\${libdir} -lopenblas $threads -lpthread -lm
Cflags: -I\${includedir}
END
"""


@recipe("openblas.source")
def source() -> Spec:
    """The source of OpenBLAS 0.3.21, without the reference LAPACK."""
    return unpack(
        "openblas-source",
        DebianFile(f"pool/main/o/openblas/openblas_{VERSION}+ds.orig.tar.xz"),
        strip_components=1,
    ).made_of(Component("openblas", VERSION, "BSD-3-Clause", cpe="openblas_project:openblas", notices=("LICENSE",)))


@recipe("openblas", group="library", ran={"openblas": f"{DEBIAN}: a product checked by hand"})
def openblas(
    gcc: Package,
    userland: Package,
    *,
    core: Literal[
        "dynamic",
        "PRESCOTT",
        "NEHALEM",
        "SANDYBRIDGE",
        "HASWELL",
        "SKYLAKEX",
        "COOPERLAKE",
        "SAPPHIRERAPIDS",
        "BARCELONA",
        "BULLDOZER",
        "PILEDRIVER",
        "STEAMROLLER",
        "EXCAVATOR",
        "ZEN",
    ] = "dynamic",
    openmp: bool = True,
    complete: bool = False,
) -> Spec:
    """OpenBLAS 0.3.21, a static library: BLAS and CBLAS for floats; for one CPU, or for all by choice at run time.

    No LAPACK. `complete` adds doubles and complex numbers, which ggml does not use and which take four times as long.
    `openmp`: threads are those of OpenMP, shared with ggml's; otherwise OpenBLAS makes its own.
    """
    return build(
        f"openblas-{core.lower()}",
        userland=userland,
        inputs={"gcc": gcc, "source": Package("openblas.source")},
        env={
            "PATH": "/forge/gcc/bin:/usr/bin",
            "CORE": core,
            "CORES": CORES,
            "COMPLETE": "1" if complete else "0",
            "OPENMP": "1" if openmp else "0",
            "VERSION": VERSION,
        },
        parallel=True,
        phases={"prepare": PREPARE, "compile": COMPILE, "install": INSTALL},
    ).containing("source").for_systems("linux-x86_64")
