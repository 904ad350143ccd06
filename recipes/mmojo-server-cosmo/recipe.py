from typing import Literal

from mmojo_forge.recipe import Files, Package, Spec, build, package_server, quote, recipe

# What the vendored tree says of itself, as in recipes/mmojo-server.
BUILD_NUMBER = "0"
BUILD_COMMIT = "0c1e57098"

# What the compiler of each architecture is told of the CPU. Everything is compiled for it: there is one program for
# each architecture in the file, and nothing that chooses. ARM's second has what Apple's, Amazon's and any later phone's
# processors have.
CPUS = {
    "compatible": {"x86_64": "-march=x86-64", "aarch64": "-march=armv8-a"},
    "performant": {"x86_64": "-march=x86-64-v3", "aarch64": "-march=armv8.2-a+dotprod+fp16"},
}
SLICES = {
    f"{arch}{'' if level == 'compatible' else '-performant'}": {"arch": arch, "level": level}
    for level, cpus in CPUS.items()
    for arch in cpus
}

# Where Cosmopolitan's programs run, as its project says; and on the BSDs for x86-64.
SYSTEMS = ("linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-x86_64", "macos-aarch64")

PAGES = {"ui/chat": Package("llama-ui"), "ui/complete": Package("ui-complete")}
NEVER = "never built: cosmocc was not to be had"
LINKED = ("cosmopolitan", "cosmopolitan-libcxx")

# `Linux` is what CMake has to be told of a system that it does not know and that is most like it; no header says so.
# Cosmopolitan's drivers turn exceptions and RTTI off, unless told; and they take no shared library.
FLAGS = (
    "-DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_LINK_DEPENDS_USE_LINKER=OFF",
    "-DCMAKE_SKIP_RPATH=ON",
    "-DCMAKE_DISABLE_FIND_PACKAGE_Git=ON",
    "-DGIT_EXECUTABLE=",
    "-DGIT_EXE=GIT_EXE-NOTFOUND",
    "-DCMAKE_EXE_LINKER_FLAGS=-Wl,-u,getentropy",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_BACKEND_DL=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_CCACHE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_BLAS=OFF",
    "-DGGML_SSE42=OFF",
    "-DGGML_AVX=OFF",
    "-DGGML_AVX2=OFF",
    "-DGGML_BMI2=OFF",
    "-DGGML_FMA=OFF",
    "-DGGML_F16C=OFF",
    "-DLLAMA_OPENSSL=ON",
    "-DOPENSSL_ROOT_DIR=/forge/openssl",
    "-DOPENSSL_USE_STATIC_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    f"-DLLAMA_BUILD_NUMBER={BUILD_NUMBER}",
    f"-DLLAMA_BUILD_COMMIT={BUILD_COMMIT}",
)
COMPILE = (
    "-Werror=date-time -ffile-prefix-map=/build/b=. -ffile-prefix-map=/forge/source=llama.cpp"
    " -ffile-prefix-map=/forge/cosmocc=cosmocc"
)
ENVIRONMENT = {"PATH": "/forge/cosmocc/ape:/usr/bin:/forge/cosmocc/bin", "TMPDIR": "/build/tmp"}

INSTALL = r"""
mkdir -p /forge/out/out/bin
cp /build/b/bin/llama-server /forge/out/out/bin/mmojo-server
"""

JOIN = r"""
mkdir -p "$TMPDIR" /build/home
sh /forge/cosmocc/ape/join.sh /forge/cosmocc /forge/out/out /forge/x86_64/bin/mmojo-server /forge/aarch64/bin/mmojo-server
chmod 755 /forge/out/out
"""


def configure(arch, cpu):
    tools = f"/forge/cosmocc/bin/{arch}-unknown-cosmo"
    flags = (
        *FLAGS,
        f"-DCMAKE_SYSTEM_PROCESSOR={arch}",
        f"-DCMAKE_C_COMPILER={tools}-cc",
        f"-DCMAKE_CXX_COMPILER={tools}-c++",
        f"-DCMAKE_ASM_COMPILER={tools}-cc",
        f"-DCMAKE_AR=/forge/cosmocc/bin/{arch}-linux-cosmo-ar",
        f"-DCMAKE_RANLIB=/forge/cosmocc/bin/{arch}-linux-cosmo-ranlib",
        f"-DCMAKE_C_FLAGS={cpu} {COMPILE}",
        f"-DCMAKE_CXX_FLAGS={cpu} -fexceptions -frtti {COMPILE}",
    )
    words = ("-S /forge/source -B /build/b -G Ninja", *(quote(flag) for flag in flags))
    return 'mkdir -p "$TMPDIR" /build/home\n/forge/cmake/bin/cmake ' + " \\\n    ".join(words)


@recipe(
    "mmojo-server-cosmo.x86_64",
    variants={name: row for name, row in SLICES.items() if name != "x86_64"},
    ran=dict.fromkeys((f"mmojo-server-cosmo.{name}" for name in SLICES), NEVER),
)
def program(
    cosmocc: Package,
    cmake: Package,
    ninja: Package,
    userland: Package,
    llama_cpp_cosmo: Package,
    *,
    arch: Literal["x86_64", "aarch64"] = "x86_64",
    level: Literal["compatible", "performant"] = "compatible",
) -> Spec:
    """llama-server by cosmocc for one architecture, as the ELF file that goes into the APE."""
    return build(
        f"mmojo-server-cosmo-{arch}-{level}",
        userland=userland,
        inputs={
            "cosmocc": cosmocc,
            "checks": Package("cosmocc.checks"),
            "cmake": cmake,
            "ninja": ninja,
            "source": llama_cpp_cosmo,
            "openssl": Package(f"openssl-cosmo.{arch}"),
        },
        env=ENVIRONMENT,
        parallel=True,
        phases={
            "configure": configure(arch, CPUS[level][arch]),
            "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" llama-server',
            "install": INSTALL,
        },
    ).containing("source", "openssl", cosmocc=LINKED)


@recipe(
    "mmojo-server-cosmo.joined",
    variants={"joined-performant": {"level": "performant"}},
    ran=dict.fromkeys(("mmojo-server-cosmo.joined", "mmojo-server-cosmo.joined-performant"), NEVER),
)
def joined(cosmocc: Package, userland: Package, *, level: Literal["compatible", "performant"] = "compatible") -> Spec:
    """The programs for both architectures in one APE, without web pages."""
    server = Package("mmojo-server-cosmo.x86_64").with_options(level=level)
    return build(
        f"mmojo-server-cosmo-{level}",
        userland=userland,
        inputs={"cosmocc": cosmocc, "x86_64": server, "aarch64": server.with_options(arch="aarch64")},
        env=ENVIRONMENT,
        phases={"join": JOIN},
    ).containing("x86_64", "aarch64", cosmocc=LINKED)


@recipe(
    "mmojo-server-cosmo.ape",
    variants={"performant": {"level": "performant"}},
    group="server",
    ran=dict.fromkeys(("mmojo-server-cosmo.ape", "mmojo-server-cosmo.performant"), NEVER),
)
def ape(userland: Package, *, level: Literal["compatible", "performant"] = "compatible") -> Spec:
    """The server as one program of Cosmopolitan's for all systems, x86-64 and arm64, with its web pages."""
    return (
        package_server(
            f"mmojo-server-cosmo-{level}.ape",
            userland=userland,
            program=Package("mmojo-server-cosmo.smoke").with_options(level=level).output("server"),
            files=PAGES,
        )
        .for_any_machine()
        .for_systems(*SYSTEMS)
    )


SMOKE = r"""
mkdir -p "$TMPDIR" /build/home
python3 -B /forge/smoke/smoke.py /build/report 300 \
    /forge/cosmocc/ape/ape /forge/joined --model /forge/model --ctx-size 256 --threads 2 --no-warmup
cp /build/report /forge/out/out
cp /forge/joined /forge/out/server
"""


@recipe(
    "mmojo-server-cosmo.smoke",
    variants={"smoke-performant": {"level": "performant"}},
    ran=dict.fromkeys(("mmojo-server-cosmo.smoke", "mmojo-server-cosmo.smoke-performant"), NEVER),
)
def smoke(cosmocc: Package, userland: Package, *, level: Literal["compatible", "performant"] = "compatible") -> Spec:
    """A report that the server, started on this machine, answers questions with what was asked for, and not HTTP 400.

    Its output `server` is that server: what is made of it is made of one that answered.
    """
    return build(
        f"mmojo-server-cosmo-smoke-{level}",
        userland=userland,
        inputs={
            "cosmocc": cosmocc,
            "joined": Package("mmojo-server-cosmo.joined").with_options(level=level),
            "model": Package("bench-model.tiny"),
            "smoke": Files("smoke"),
        },
        env=ENVIRONMENT,
        outputs=("out", "server"),
        phases={"ask": SMOKE},
    ).containing("joined")
