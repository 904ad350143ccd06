from typing import Literal

from mmojo_forge.recipe import Files, Package, Spec, build, package_server, recipe
from recipes.lib.cmake import NINJA, NO_GIT, command, ninja_build, no_paths, tool_flags
from recipes.lib.llama_cpp import NO_CPU_FEATURES, SERVER, off
from recipes.lib.ran import WITHOUT_COSMOCC

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
LINKED = ("cosmopolitan", "cosmopolitan-libcxx")

# `Linux` is what CMake has to be told of a system that it does not know and that is most like it; no header says so.
# Cosmopolitan's drivers turn exceptions and RTTI off, unless told; and they take no shared library.
FLAGS = (
    NINJA,
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_LINK_DEPENDS_USE_LINKER=OFF",
    "-DCMAKE_SKIP_RPATH=ON",
    *NO_GIT,
    "-DCMAKE_EXE_LINKER_FLAGS=-Wl,-u,getentropy",
    "-DBUILD_SHARED_LIBS=OFF",
    *off("BACKEND_DL", "NATIVE", "CCACHE", "OPENMP", "BLAS"),
    *NO_CPU_FEATURES,
    *SERVER,
)
COMPILE = f"-Werror=date-time {no_paths(source='llama.cpp', cosmocc='cosmocc')}"
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
    compiler, archiver = f"/forge/cosmocc/bin/{arch}-unknown-cosmo", f"/forge/cosmocc/bin/{arch}-linux-cosmo"
    flags = (
        *FLAGS,
        f"-DCMAKE_SYSTEM_PROCESSOR={arch}",
        *tool_flags(f"{compiler}-cc", f"{compiler}-c++", f"{archiver}-ar", f"{archiver}-ranlib", asm=True),
        f"-DCMAKE_C_FLAGS={cpu} {COMPILE}",
        f"-DCMAKE_CXX_FLAGS={cpu} -fexceptions -frtti {COMPILE}",
    )
    return f'mkdir -p "$TMPDIR" /build/home\n{command("/forge/source", flags)}'


@recipe(
    "mmojo-server-cosmo.x86_64",
    variants={name: row for name, row in SLICES.items() if name != "x86_64"},
    ran=dict.fromkeys((f"mmojo-server-cosmo.{name}" for name in SLICES), WITHOUT_COSMOCC),
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
            "compile": ninja_build("llama-server"),
            "install": INSTALL,
        },
    ).containing("source", "openssl", cosmocc=LINKED)


@recipe(
    "mmojo-server-cosmo.joined",
    variants={"joined-performant": {"level": "performant"}},
    ran=dict.fromkeys(("mmojo-server-cosmo.joined", "mmojo-server-cosmo.joined-performant"), WITHOUT_COSMOCC),
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
    ran=dict.fromkeys(("mmojo-server-cosmo.ape", "mmojo-server-cosmo.performant"), WITHOUT_COSMOCC),
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
    ran=dict.fromkeys(("mmojo-server-cosmo.smoke", "mmojo-server-cosmo.smoke-performant"), WITHOUT_COSMOCC),
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
